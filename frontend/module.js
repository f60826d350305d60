/* The button for pages that no template with the tag has made, single-page applications above all.
   Its markup is the tag's own and comes from leadexec:state, so it speaks the visitor's language. */

import { doc } from "./doc.js";
import "./leadexec.js";

const INSTANCE = Symbol.for("django_leadexec");
const STATE_URL = "/leadexec/state/";
const TIMEOUT = 60_000;
const FAULT_OF_THE_PAGE =
  "This button does not work on this page. Please tell the people who run this site.";

let mounted = null;
let policy = null;

/* What connect(), disconnect() and state() fail with; `code` as in the documented tables. */
export class LeadExecError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = "LeadExecError";
    this.code = code;
  }
}

async function request(url, options = {}) {
  let response;
  try {
    response = await fetch(new URL(url, location.href), {
      credentials: "same-origin",
      redirect: "manual",
      signal: AbortSignal.timeout(TIMEOUT),
      ...options,
      headers: { Accept: "application/json", ...options.headers },
    });
  } catch (cause) {
    throw new LeadExecError("network", words("Network", "The site could not be reached."), {
      cause,
    });
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const { code = "unexpected", message = words("Unexpected", "The site's answer makes no sense.") } =
    answer?.error ?? {};
  throw new LeadExecError(code, message);
}

/* The site's own words, in its markup. Before there is any, what the module says is in English. */
function words(name, english) {
  return mounted?.element.querySelector(".leadexec")?.dataset[`text${name}`] ?? english;
}

/* What leadexec:state answers: who is connected, and what a page needs. */
export function state({ stateUrl = STATE_URL } = {}) {
  return request(stateUrl);
}

/* Ends a connection of the visitor's: the one with this `id`, or the only one there is.
   Resolves to {status, message}. */
export async function disconnect(id = null, { stateUrl = mounted?.stateUrl } = {}) {
  const known = await state({ stateUrl });
  const { status, message } = await request(known.disconnect_url, {
    method: "POST",
    headers: { "Content-Type": "application/json", [known.csrf_header]: known.csrf_token },
    body: JSON.stringify({ connection: id }),
  });
  const options = { bubbles: true, detail: { status, message } };
  const event = new CustomEvent("leadexec:disconnected", options);
  // What keeps the new state from being shown is told by an event; the connection has ended.
  await mounted?.render(message).catch(() => {});
  if (mounted) mounted.element.dispatchEvent(event);
  else doc("dispatchEvent", event);
  return { status, message };
}

/* Puts the button, or the connected state, into an element of the page, and keeps it up to date.
   A page has one: a second call moves it. Returns {ready, refresh(), remove()}. */
export function connect(element, options = {}) {
  mounted?.remove();
  const button = new Button(element, options);
  mounted = button;
  const ready = button.render();
  // The event leadexec:error has told it; who wants to can await it all the same.
  ready.catch(() => {});
  return {
    ready,
    refresh: () => button.render(),
    remove: () => button.remove(),
  };
}

class Button {
  constructor(element, options) {
    const { stateUrl = STATE_URL, label = "", next = "", load = "page", nonce = "" } = options;
    this.element = element;
    this.stateUrl = stateUrl;
    this.query = { label, next, load };
    this.nonce = nonce;
    this.notify = options.onState;
    this.isRemoved = false;
    element.addEventListener("leadexec:connected", this.onConnected);
    element.addEventListener("submit", this.onSubmit);
  }

  /* `words` are said once the new state is there. Resolves to what leadexec:state answers. */
  async render(words = "") {
    const { element } = this;
    const url = new URL(this.stateUrl, location.href);
    url.search = new URLSearchParams({ ...this.query, button: "" });
    let answer, content;
    try {
      answer = await request(url);
      content = this.parse(answer.button);
    } catch (error) {
      if (!this.isRemoved) this.tell(error);
      throw error;
    }
    const { button, ...known } = answer;
    if (this.isRemoved) return known;
    const hadFocus = element.contains(doc("activeElement"));
    element.replaceChildren(content);
    const wrapper = element.querySelector(".leadexec");
    document[INSTANCE](wrapper, this.nonce);
    if (hadFocus) element.querySelector(".leadexec-account, #leAppButton")?.focus();
    // A frame later, or a new region may not be heard.
    requestAnimationFrame(() => this.say(words));
    try {
      this.notify?.(known);
    } catch (error) {
      reportError(error);
    }
    return known;
  }

  parse(html) {
    const template = doc("createElement", "template");
    try {
      template.innerHTML = trusted(html);
    } catch (cause) {
      // A page that requires Trusted Types doesn't know our policy; the browser's console says so.
      throw new LeadExecError("page", words("Page", FAULT_OF_THE_PAGE), { cause });
    }
    const { content } = template;
    // This module is the script. The nonce there is of the state's response, not of this page's.
    for (const other of content.querySelectorAll("script, .leadexec-debug-waits")) other.remove();
    for (const link of content.querySelectorAll("link")) {
      link.removeAttribute("nonce");
      if (this.nonce) link.nonce = this.nonce;
    }
    return content;
  }

  say(words) {
    const region = this.element.querySelector("[role=status]");
    if (region && words) region.textContent = words;
  }

  tell({ code, message }) {
    const options = { bubbles: true, cancelable: true, detail: { code, message } };
    if (this.element.dispatchEvent(new CustomEvent("leadexec:error", options))) this.say(message);
  }

  /* The page stays, and shows what is so now. */
  onConnected = (event) => {
    event.preventDefault();
    const { textConnected, textSignedIn } = event.target.dataset;
    const words = event.detail.status === "connected" ? textConnected : textSignedIn;
    this.render(words).catch(() => {});
  };

  onSubmit = async (event) => {
    const form = event.target;
    if (event.defaultPrevented || !form.matches(".leadexec-connected")) return;
    event.preventDefault();
    if (form.hasAttribute("aria-busy")) return;
    form.setAttribute("aria-busy", "true");
    this.say(form.parentElement.dataset.textDisconnecting);
    try {
      await disconnect(form.elements.connection.value, this);
    } catch (error) {
      form.removeAttribute("aria-busy");
      this.say("");
      this.tell(error);
    }
  };

  remove() {
    this.isRemoved = true;
    this.element.removeEventListener("leadexec:connected", this.onConnected);
    this.element.removeEventListener("submit", this.onSubmit);
    this.element.replaceChildren();
    if (mounted === this) mounted = null;
  }
}

/* For pages that require Trusted Types. */
function trusted(html) {
  try {
    policy ??= trustedTypes.createPolicy("django-leadexec-module", { createHTML: (same) => same });
    return policy.createHTML(html);
  } catch {
    return html;
  }
}
