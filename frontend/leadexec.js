/* Joins LeadExec's sign-in button to this site: hands what its script calls AuthorizeResult with to
   the site's callback, and follows the answer. The token never leaves this closure otherwise. */

import { doc } from "./doc.js";

(() => {
  // Inserting the tag into a loaded page (htmx, Turbo) runs this file again: one instance serves.
  const INSTANCE = Symbol.for("django_leadexec");
  if (document[INSTANCE]) {
    document[INSTANCE]();
    return;
  }

  const SECOND = 1000;
  const MINUTE = 60 * SECOND;
  const GESTURE_LIFETIME = 10 * MINUTE;
  const SCRIPT_TIMEOUT = 20 * SECOND;
  const ANSWER_TIMEOUT = 20 * SECOND;
  const POST_TIMEOUT = MINUTE;
  const NO_LOOP = 30 * SECOND;
  const MAX_REASON = 200;
  const RELOAD = Symbol("reload");
  // LeadExec doesn't name the key; an access token (authToken) that comes along is not wanted.
  const TOKEN_KEYS = ["refreshToken", "RefreshToken", "refresh_token"];
  const STATUS = "[role=status]";
  const ALERT = "[role=alert]";
  const ACTION = ".leadexec-action";

  let nonce = doc("currentScript")?.nonce;
  let wrapper = null;
  let mounted = null;
  let pageHandler = null;
  let inside = false;
  let gestureAt = -Infinity;
  let flight = null;
  let lastToken = null;
  let offered = null;
  let script = "absent";
  let fetching = null;
  let sheet = null;
  let policy = null;
  let consented = false;
  let isClickWaiting = false;
  let isElsewhere = false;
  let isAlive = false;
  let answerTimer;

  // The page

  const part = (selector) => wrapper.querySelector(selector);
  const text = (name) => wrapper.dataset[`text${name}`] ?? "";
  const control = () =>
    part("#leAppButton") ?? part(`${ACTION} :is(button, a, input, [tabindex])`);

  function emit(name, detail) {
    const options = { bubbles: true, cancelable: true, detail };
    return wrapper.dispatchEvent(new CustomEvent(`leadexec:${name}`, options));
  }

  function say(selector, words) {
    for (const region of wrapper.querySelectorAll(`${STATUS}, ${ALERT}`)) {
      region.textContent = region.matches(selector) ? words : "";
    }
    if (selector === ALERT) control()?.setAttribute("aria-describedby", part(ALERT).id);
  }

  /* Takes away what was said and offered. */
  function clear() {
    say(STATUS, "");
    offer(null);
  }

  /* `again` is what can help: the token that trying again would post, RELOAD, or nothing. */
  function fail(code, message, again = null) {
    say(STATUS, "");
    const told = emit("error", { code, message });
    if (told) say(ALERT, message);
    offer(told ? again : null, text(again === RELOAD ? "Reload" : "Retry"));
  }

  /* Our own button, for the token we hold or for RELOAD; `alone`, where LeadExec's would mean the
     same. */
  function offer(token, label = "", alone = false) {
    offered = token;
    const button = part(".leadexec-continue");
    if (!button) return;
    const hadFocus = doc("activeElement") === button;
    button.hidden = token === null;
    button.textContent = label;
    button.classList.toggle("leadexec-primary", alone);
    cover(alone, button);
    // What is hidden loses the focus, and the keyboard its place: LeadExec's button is the next step.
    if (hadFocus && button.hidden) control()?.focus();
  }

  /* Hides LeadExec's button; what had the focus in it hands it on. */
  function cover(isCovered, successor) {
    const action = part(ACTION);
    if (!action) return;
    const hadFocus = action.contains(doc("activeElement"));
    action.hidden = isCovered;
    if (isCovered && hadFocus) successor.focus();
  }

  /* Not the wrapper: what is said inside of something busy may not be heard. */
  function busy(element, words) {
    element?.setAttribute("aria-busy", "true");
    say(STATUS, words);
  }

  function rest() {
    flight = null;
    for (const element of wrapper.querySelectorAll("[aria-busy]")) {
      element.removeAttribute("aria-busy");
    }
  }

  function go(redirect, isDone) {
    // Back to the page by its address, not by a reload, which would send a form again.
    const here = location.pathname + location.search;
    const target = new URL(redirect || here, location.href);
    // The server answers with local paths only; this stops a javascript: URL whatever it says.
    if (target.origin !== location.origin) return fail("unexpected", text("Unexpected"));
    if (isDone) note(`done:${target.pathname}`);
    location.assign(target);
    // Moving to a fragment of the same page alone would load nothing.
    if (target.hash && target.pathname + target.search === here) location.reload();
  }

  /* Whether it could be noted; a browser may keep pages from storing anything. */
  function note(name) {
    try {
      sessionStorage.setItem(`leadexec:${name}`, Date.now());
      return true;
    } catch {
      return false;
    }
  }

  function wasNoted(name, isForgotten) {
    try {
      const key = `leadexec:${name}`;
      const age = Date.now() - Number(sessionStorage.getItem(key));
      if (isForgotten) sessionStorage.removeItem(key);
      return age >= 0 && age < NO_LOOP;
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
    busy(part(ACTION), text("Busy"));
    const answer = await ask(token, gesture);
    // Meanwhile the page came back from the history, or another button took this one's place.
    if (flight !== mine) return;
    rest();
    const stays = answer.error || answer.status === "ignored" || !(gesture || answer.redirect);
    if (mine.next !== null && stays) post(mine.next, true);
    else follow(answer, token, gesture);
  }

  function request(path, options) {
    // By the page's own address: a <base> of the page's, or of a visitor's in it, may be another's.
    return fetch(new URL(path, location.href), {
      credentials: "same-origin",
      redirect: "manual",
      signal: AbortSignal.timeout(POST_TIMEOUT),
      ...options,
    });
  }

  /* A page that is the same for every stranger holds no token. */
  async function fetchCsrfToken(path) {
    const response = await request(path, { headers: { Accept: "application/json" } });
    return (await response.json()).csrf_token;
  }

  /* The callback's answer, or {error: {code, message}, again: what can help, as for fail()}. */
  async function ask(token, gesture) {
    // The mark is the page's own: what leadexec:state says is about the session of now.
    const { callback, csrfHeader, csrfToken, next, state, visitor } = wrapper.dataset;
    const failure = (code, message, again) => ({ error: { code, message }, again });
    let response;
    try {
      response = await request(callback, {
        method: "POST",
        headers: {
          Accept: "application/json",
          "Content-Type": "application/json",
          [csrfHeader]: csrfToken || (await fetchCsrfToken(state)),
        },
        // A page of module.js stays, and says itself that the visitor is connected.
        body: JSON.stringify({
          token,
          gesture,
          visitor,
          next: next || null,
          page: wrapper === mounted ? null : location.pathname,
        }),
      });
    } catch {
      return failure("network", text("Network"), token);
    }
    if (response.status === 429) {
      return failure("throttled", throttled(response.headers.get("Retry-After")), token);
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && typeof answer?.status === "string") return answer;
    const { code, message } = answer?.error ?? {};
    if (response.status === 403 && (!code || code === "csrf")) {
      return failure("csrf", text("Csrf"), RELOAD);
    }
    const again = response.status >= 500 ? token : null;
    if (code && message) {
      return failure(code, message, code === "reload" ? RELOAD : again);
    }
    return failure("unexpected", text("Unexpected"), again);
  }

  function throttled(retryAfter) {
    const seconds = /^\d+$/.test(retryAfter)
      ? Number(retryAfter)
      : Math.ceil((Date.parse(retryAfter) - Date.now()) / 1000);
    if (!(seconds > 0)) return text("ThrottledAWhile");
    const form = new Intl.PluralRules(wrapper.lang.split("@")[0] || "en").select(seconds);
    const words = text(`Throttled${form[0].toUpperCase()}${form.slice(1)}`);
    return (words || text("ThrottledOther")).replace("%s", seconds);
  }

  function follow({ status, redirect, error, again }, token, gesture) {
    if (error) {
      fail(error.code, error.message, again);
    } else if (status === "connected" || status === "signed_in") {
      const back = `return:${location.pathname}`;
      if (!emit("connected", { status, redirect, gesture })) {
        clear();
      } else if (gesture || (status === "signed_in" && !wasNoted(back) && note(back))) {
        go(redirect, true);
      } else {
        clear();
        const region = part(STATUS);
        region.tabIndex = -1;
        cover(true, region);
        part(".leadexec-note")?.remove();
        say(STATUS, text(status === "connected" ? "Connected" : "SignedIn"));
      }
    } else if (status === "ignored") {
      clear();
      if (!emit("ignored", {})) return;
      say(STATUS, text("Recognized"));
      offer(token, text("Continue"), true);
    } else if (status === "login_required" || status === "confirm_required") {
      if (emit("redirect", { status, redirect })) go(redirect);
      else clear();
    } else {
      fail("unexpected", text("Unexpected"));
    }
  }

  // What LeadExec's script calls

  function hear(result) {
    // A page whose own function calls the one it found here comes back to us.
    if (inside) return undefined;
    inside = true;
    try {
      start();
      if (wrapper?.dataset.script) receive(result ?? {});
      return pageHandler?.apply(this, arguments);
    } finally {
      inside = false;
    }
  }

  function receive(result) {
    const gesture = performance.now() - gestureAt < GESTURE_LIFETIME;
    gestureAt = -Infinity;
    isAlive = true;
    isClickWaiting = false;
    clearTimeout(answerTimer);
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

  /* Puts ours in the place of the page's AuthorizeResult, which ours calls. Whether it could. */
  function install() {
    try {
      const current = window.AuthorizeResult;
      if (current !== hear) {
        if (typeof current === "function") pageHandler = current;
        try {
          Object.defineProperty(window, "AuthorizeResult", {
            configurable: true,
            enumerable: true,
            get: () => hear,
            set: (value) => {
              if (value !== hear) pageHandler = typeof value === "function" ? value : null;
            },
          });
        } catch {
          // A function the page has declared can't be redefined, but assigned to.
          window.AuthorizeResult = hear;
        }
      }
      // Declared with let or const, the page's hides the window's, and only a let can be changed.
      if (AuthorizeResult !== hear) {
        pageHandler = AuthorizeResult;
        AuthorizeResult = hear;
      }
      return AuthorizeResult === hear;
    } catch {
      return false;
    }
  }

  function tellFault() {
    console.error("django-leadexec: AuthorizeResult can't be replaced: declare it as a function.");
    fail("page", text("Page"));
  }

  // LeadExec's script and stylesheet

  function style() {
    if (sheet?.isConnected) return;
    const element = doc("createElement", "link");
    element.rel = "stylesheet";
    // One for another medium blocks nothing while it is under way.
    element.media = "print";
    element.addEventListener("load", () => {
      element.media = "all";
    });
    element.addEventListener("error", () => element.remove());
    if (nonce) element.nonce = nonce;
    element.href = wrapper.dataset.stylesheet;
    // Behind ours, so that its rules win.
    part("link").after(element);
    sheet = element;
  }

  function load() {
    script = "loading";
    isAlive = false;
    style();
    // One that a tag before this one has asked for will find this one's button.
    if (fetching) return;
    const element = doc("createElement", "script");
    let isBroken = false;
    const onError = () => {
      if (doc("currentScript") === element) isBroken = true;
    };
    const settle = () => {
      clearTimeout(timer);
      window.removeEventListener("error", onError);
      // The tag that asked for it may be gone, and another in its place.
      start();
      if (fetching === element) fetching = null;
      return Boolean(wrapper?.dataset.script);
    };
    const failed = (code, message) => {
      if (fetching !== element || !settle()) return;
      script = "failed";
      isClickWaiting = false;
      if (!flight) rest();
      fail(code, message);
    };
    const missed = () => failed("script", text("Script"));
    const timer = setTimeout(missed, SCRIPT_TIMEOUT);
    fetching = element;
    element.addEventListener("load", () => {
      if (isBroken && !isAlive) return missed();
      if (!settle()) return;
      script = "loaded";
      if (part(ALERT)?.textContent === text("Script")) say(ALERT, "");
      if (isClickWaiting) passClickOn();
    });
    element.addEventListener("error", () => {
      element.remove();
      missed();
    });
    window.addEventListener("error", onError);
    if (nonce) element.nonce = nonce;
    element.async = true;
    try {
      element.src = trusted(wrapper.dataset.script);
    } catch {
      // A page that requires Trusted Types doesn't know our policy; the browser's console says so.
      return failed("page", text("Page"));
    }
    doc("head").append(element);
  }

  /* For pages that require Trusted Types. */
  function trusted(url) {
    try {
      policy =
        policy ?? trustedTypes.createPolicy("django-leadexec", { createScriptURL: (same) => same });
      return policy.createScriptURL(url);
    } catch {
      return url;
    }
  }

  // The button

  function start() {
    // Known by its script: sanitizers let a visitor's markup keep classes and data attributes, and
    // what they name would be loaded here, and get the token.
    const found = mounted?.isConnected
      ? mounted
      : (doc("querySelector", ".leadexec > script")?.parentElement ?? null);
    if (found !== wrapper) {
      wrapper = found;
      gestureAt = -Infinity;
      flight = lastToken = offered = null;
      script = "absent";
      isClickWaiting = false;
      clearTimeout(answerTimer);
      if (wrapper?.dataset.script) prepare();
    }
    begin();
  }

  /* For module.js, which puts the button into pages itself, and for a second run of this file. */
  function mount(element, itsNonce) {
    if (element) {
      mounted = element;
      nonce = itsNonce;
    }
    start();
  }

  function prepare() {
    // The markup has no type, which inside a form of the page would mean submit.
    const button = part("#leAppButton");
    if (button?.form) button.type = "button";
    if (!install()) tellFault();
  }

  /* Once the page is complete, whose load event a file under way would hold back. */
  function begin() {
    if (!wrapper || script !== "absent" || doc("readyState") !== "complete") return;
    const { script: url, load: when } = wrapper.dataset;
    if (!url) {
      script = "none";
      // By then the site's own autofocus has had its turn.
      requestAnimationFrame(greet);
    } else if ((consented || when !== "click") && install()) {
      load();
    }
  }

  /* The page that a visitor comes back to once they have connected. */
  function greet() {
    if (!wrapper || !wasNoted(`done:${location.pathname}`, true)) return;
    // Where another page led here, a message of Django's may say so already.
    if (!doc("body").innerText.includes(text("Connected"))) say(STATUS, text("Connected"));
    const focused = doc("activeElement");
    if (!focused || focused === doc("body")) part(".leadexec-account")?.focus();
  }

  function onUse(event) {
    const isClick = event.type === "click";
    if (!event.isTrusted || !(isClick || event.key === "Enter" || event.key === " ")) return;
    start();
    const { target } = event;
    if (!wrapper?.contains(target)) {
      // A label passes its click on to the button, in the same task, as one that is trusted.
      isElsewhere = isClick;
      setTimeout(() => {
        isElsewhere = false;
      });
    } else if (!isElsewhere && target.closest(".leadexec-continue")) {
      if (!isClick || offered === null) return;
      if (offered === RELOAD) location.reload();
      else post(offered, true);
      // By place as well as by id, should LeadExec's script have replaced the button.
    } else if (!isElsewhere && target.closest(`#leAppButton, ${ACTION}`)) {
      press(isClick);
    }
  }

  function press(isClick) {
    gestureAt = performance.now();
    if (!install()) return tellFault();
    if (!flight) clear();
    if (!isClick) return;
    if (script === "loaded") return watch();
    // A click that came before LeadExec's script is passed on to it.
    isClickWaiting = true;
    busy(part(ACTION), text("Loading"));
    if (script !== "loading") load();
  }

  /* To what the script has made of the button, which may be another element by now. */
  function passClickOn() {
    isClickWaiting = false;
    if (!flight) {
      rest();
      clear();
    }
    // A browser opens no window for a click of long ago.
    if (navigator.userActivation?.isActive === false) {
      say(STATUS, text("Ready"));
    } else {
      watch();
      control()?.click();
    }
  }

  /* For a script that does nothing. Its dialog, another window or a frame, takes as long as it takes. */
  function watch() {
    clearTimeout(answerTimer);
    answerTimer = setTimeout(() => {
      if (flight || !doc("hasFocus") || doc("activeElement")?.tagName === "IFRAME") return watch();
      if (!isAlive) script = "failed";
      fail("no_answer", text("NoAnswer"));
    }, ANSWER_TIMEOUT);
  }

  function onSubmit(event) {
    const form = event.target;
    if (event.defaultPrevented || !wrapper?.contains(form)) return;
    if (!form.matches(".leadexec-connected")) return;
    if (form.hasAttribute("aria-busy")) {
      event.preventDefault();
    } else {
      busy(form, text("Disconnecting"));
      // The visitor may have stopped the browser.
      setTimeout(() => form.removeAttribute("aria-busy"), POST_TIMEOUT);
    }
  }

  document[INSTANCE] = mount;
  install();
  window.addEventListener("click", onUse, true);
  window.addEventListener("keydown", onUse, true);
  window.addEventListener("submit", onSubmit);
  window.addEventListener("blur", () => {
    if (script === "loaded") isAlive = true;
  });
  // The site's word that the visitor has agreed, wherever it is dispatched.
  window.addEventListener(
    "leadexec:load",
    () => {
      consented = true;
      start();
    },
    true,
  );
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted || !wrapper) return;
    rest();
    isClickWaiting = false;
    clearTimeout(answerTimer);
    say(STATUS, "");
  });
  // A deferred script runs while the page is "interactive"; after ours come the page's own.
  window.addEventListener("DOMContentLoaded", start);
  window.addEventListener("load", start);
  if (doc("readyState") === "complete") start();
})();
