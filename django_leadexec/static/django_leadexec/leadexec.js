/* Joins LeadExec's sign-in button to this site: hands what its script calls AuthorizeResult with to
   the site's callback, and follows the answer. The token never leaves this closure otherwise. */
(() => {
  "use strict";

  // Inserting the tag into a loaded page (htmx, Turbo) runs this file again: one instance serves.
  const INSTANCE = Symbol.for("django_leadexec");
  if (document[INSTANCE]) {
    document[INSTANCE]();
    return;
  }

  const MINUTE = 60_000;
  const GESTURE_LIFETIME = 10 * MINUTE;
  const SCRIPT_TIMEOUT = 20_000;
  const POST_TIMEOUT = MINUTE;
  const NO_LOOP = 30_000;
  const MAX_REASON = 200;
  // LeadExec doesn't name the key; an access token (authToken) that comes along is not wanted.
  const TOKEN_KEYS = ["refreshToken", "RefreshToken", "refresh_token"];
  const nonce = document.currentScript?.nonce;

  let wrapper = null;
  let pageHandler = null;
  let inside = false;
  let gestureAt = -Infinity;
  let flight = null;
  let lastToken = null;
  let offered = null;
  let script = "absent";

  // The page

  const part = (selector) => wrapper.querySelector(selector);
  const text = (name) => wrapper.dataset[`text${name}`] ?? "";

  function emit(name, detail) {
    const options = { bubbles: true, cancelable: true, detail };
    return wrapper.dispatchEvent(new CustomEvent(`leadexec:${name}`, options));
  }

  function say(selector, words) {
    for (const region of wrapper.querySelectorAll("[role=status], [role=alert]")) {
      region.textContent = region.matches(selector) ? words : "";
    }
  }

  /* Whether the page lets the visitor be told. */
  function fail(code, message) {
    say("[role=status]", "");
    const told = emit("error", { code, message });
    if (told) say("[role=alert]", message);
    return told;
  }

  function offer(token, label) {
    offered = token;
    const button = part(".leadexec-continue");
    if (!button) return;
    // What is hidden loses the focus, and the keyboard its place: LeadExec's button is the next step.
    if (token === null && button === document.activeElement) {
      part(".leadexec-action :is(button, a, input, [tabindex])")?.focus();
    }
    button.hidden = token === null;
    button.textContent = label;
  }

  function rest() {
    flight = null;
    part(".leadexec-action")?.removeAttribute("aria-busy");
  }

  function go(redirect) {
    // Back to the page by its address, not by a reload, which would send a form again.
    const here = location.pathname + location.search;
    const target = new URL(redirect || here, location.href);
    // The server answers with local paths only; this stops a javascript: URL whatever it says.
    if (target.origin !== location.origin) return fail("unexpected", text("Unexpected"));
    location.assign(target);
    // Moving to a fragment of the same page alone would load nothing.
    if (target.hash && target.pathname + target.search === here) location.reload();
  }

  function firstReturn() {
    try {
      const key = `leadexec:return:${location.pathname}`;
      const age = Date.now() - Number(sessionStorage.getItem(key));
      if (age >= 0 && age < NO_LOOP) return false;
      sessionStorage.setItem(key, Date.now());
      return true;
    } catch {
      return false;
    }
  }

  // The site's callback

  async function post(token, gesture) {
    if (flight) {
      const repeat = token === flight.token && flight.gesture;
      if (gesture && !repeat) flight.next = token;
      return;
    }
    if (!gesture && token === lastToken) return;
    if (!emit("authorize", { gesture })) return;
    const mine = { token, gesture, next: null };
    flight = mine;
    lastToken = token;
    // Its button stays until the answer: whoever has pressed it by the keyboard keeps their place.
    offered = null;
    // Not the wrapper: what is said inside of something busy may not be heard.
    part(".leadexec-action")?.setAttribute("aria-busy", "true");
    say("[role=status]", text("Busy"));
    const answer = await ask(token, gesture);
    // Meanwhile the page came back from the history, or another button took this one's place.
    if (flight !== mine) return;
    rest();
    const stays = answer.error || answer.status === "ignored" || !(gesture || answer.redirect);
    if (mine.next !== null && stays) {
      post(mine.next, true);
    } else {
      follow(answer, token, gesture);
      if (offered === null) offer(null, "");
    }
  }

  /* The callback's answer, or {error: {code, message}, again: whether trying again can help}. */
  async function ask(token, gesture) {
    const { callback, csrfHeader, csrfToken, next } = wrapper.dataset;
    const failure = (code, message, again) => ({ error: { code, message }, again });
    let response;
    try {
      // By the page's own address: a <base> of the page's, or of a visitor's in it, may be another's.
      response = await fetch(new URL(callback, location.href), {
        method: "POST",
        credentials: "same-origin",
        redirect: "manual",
        headers: {
          Accept: "application/json",
          "Content-Type": "application/json",
          [csrfHeader]: csrfToken,
        },
        body: JSON.stringify({ refreshToken: token, gesture, next: next || null }),
        signal: AbortSignal.timeout(POST_TIMEOUT),
      });
    } catch {
      return failure("network", text("Network"), true);
    }
    if (response.status === 429) {
      return failure("throttled", throttled(response.headers.get("Retry-After")), true);
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && typeof answer?.status === "string") return answer;
    const { code, message } = answer?.error ?? {};
    if (response.status === 403 && (!code || code === "csrf")) {
      return failure("csrf", text("Csrf"), false);
    }
    if (code && message) {
      return failure(code, message, response.status >= 500);
    }
    return failure("unexpected", text("Unexpected"), response.status >= 500);
  }

  function throttled(retryAfter) {
    const seconds = /^\d+$/.test(retryAfter)
      ? Number(retryAfter)
      : Math.ceil((Date.parse(retryAfter) - Date.now()) / 1000);
    return seconds > 0 ? text("Throttled").replace("%s", seconds) : text("ThrottledAWhile");
  }

  function follow({ status, redirect, error, again }, token, gesture) {
    if (error) {
      if (fail(error.code, error.message) && again) offer(token, text("Retry"));
    } else if (status === "connected" || status === "signed_in") {
      if (!emit("connected", { status, redirect, gesture })) {
        say("[role=status]", "");
      } else if (gesture || (status === "signed_in" && firstReturn())) {
        go(redirect);
      } else {
        part(".leadexec-action")?.setAttribute("hidden", "");
        say("[role=status]", text(status === "connected" ? "Connected" : "SignedIn"));
      }
    } else if (status === "ignored") {
      say("[role=status]", "");
      if (emit("ignored", {})) {
        say("[role=status]", text("Recognized"));
        offer(token, text("Continue"));
      }
    } else if (status === "login_required" || status === "confirm_required") {
      if (emit("redirect", { status, redirect })) go(redirect);
      else say("[role=status]", "");
    } else {
      fail("unexpected", text("Unexpected"));
    }
  }

  // LeadExec's script

  function AuthorizeResult(result) {
    // A page whose own function calls the one it found here comes back to us.
    if (inside) return undefined;
    inside = true;
    try {
      start();
      if (wrapper) receive(result ?? {});
      return pageHandler?.apply(this, arguments);
    } finally {
      inside = false;
    }
  }

  function receive(result) {
    const gesture = performance.now() - gestureAt < GESTURE_LIFETIME;
    gestureAt = -Infinity;
    if (String(result.valid).toLowerCase() !== "true") {
      const reason = describe(result.error);
      const words = reason ? text("RefusedBecause").replace("%s", () => reason) : text("Refused");
      fail("not_authorized", words);
      return;
    }
    const token = TOKEN_KEYS.map((key) => result[key]).find(
      (value) => typeof value === "string" && value,
    );
    if (token) post(token, gesture);
    else fail("unexpected", text("Unexpected"));
  }

  function describe(reason) {
    let words = reason?.message ?? (reason || "");
    if (typeof words === "object") {
      try {
        words = JSON.stringify(words);
      } catch {
        words = "";
      }
    }
    words = String(words).trim();
    return words.length > MAX_REASON ? `${words.slice(0, MAX_REASON)}\u2026` : words;
  }

  function install() {
    const current = window.AuthorizeResult;
    if (current === AuthorizeResult) return;
    if (typeof current === "function") pageHandler = current;
    try {
      Object.defineProperty(window, "AuthorizeResult", {
        configurable: true,
        enumerable: true,
        get: () => AuthorizeResult,
        set: (value) => {
          if (value !== AuthorizeResult) pageHandler = typeof value === "function" ? value : null;
        },
      });
    } catch {
      // A function the page has declared can't be redefined, but assigned to.
      window.AuthorizeResult = AuthorizeResult;
    }
  }

  function load() {
    const element = document.createElement("script");
    const mine = wrapper;
    const failed = () => {
      script = "failed";
      if (mine === wrapper) fail("script", text("Script"));
    };
    const timer = setTimeout(failed, SCRIPT_TIMEOUT);
    element.addEventListener("load", () => {
      clearTimeout(timer);
      script = "loaded";
      if (mine === wrapper && part("[role=alert]")?.textContent === text("Script")) {
        say("[role=alert]", "");
      }
    });
    element.addEventListener("error", () => {
      clearTimeout(timer);
      element.remove();
      failed();
    });
    if (nonce) element.nonce = nonce;
    element.async = true;
    element.src = wrapper.dataset.script;
    script = "loading";
    document.head.append(element);
  }

  function start() {
    // Known by its script: sanitizers let a visitor's markup keep classes and data attributes, and
    // what they name would be loaded here, and get the token.
    const mark = document.querySelector(".leadexec[data-callback] > script");
    const found = mark && mark.parentElement;
    if (found === wrapper) return;
    wrapper = found;
    gestureAt = -Infinity;
    flight = lastToken = offered = null;
    if (!wrapper) return;
    // The markup has no type, which inside a form of the page would mean submit.
    const button = part("#leAppButton");
    if (button?.form) button.type = "button";
    install();
    load();
  }

  function onUse(event) {
    if (!event.isTrusted || !(event.target instanceof Element)) return;
    if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
    // By place as well as by id, should LeadExec's script have replaced the button.
    if (event.target.closest("#leAppButton, .leadexec-action")) {
      start();
      gestureAt = performance.now();
      install();
      if (script === "failed" && event.type === "click") {
        say("[role=status]", "");
        load();
      }
    } else if (event.target.closest(".leadexec-continue") && event.type === "click") {
      if (offered !== null) post(offered, true);
    }
  }

  document[INSTANCE] = start;
  install();
  document.addEventListener("click", onUse, true);
  document.addEventListener("keydown", onUse, true);
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted || !wrapper) return;
    rest();
    say("[role=status]", "");
  });
  // A deferred script runs while the page is "interactive"; after ours come the page's own.
  if (document.readyState === "complete") {
    start();
  } else {
    document.addEventListener("DOMContentLoaded", start);
    window.addEventListener("load", start);
  }
})();
