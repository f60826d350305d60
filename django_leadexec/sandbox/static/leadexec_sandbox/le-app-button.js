// The sandbox's stand-in for the provider's script: it takes over #leAppButton and tells the
// page's AuthorizeResult() how it went.
(() => {
  "use strict";

  const NAME = "/js/le-app-button.js";
  const isOurs = (script) => script.src.split(/[?#]/)[0].endsWith(NAME);
  const own = document.currentScript ?? [...document.scripts].find(isOurs);
  if (!own || window.leAppButtonLoaded) return;
  window.leAppButtonLoaded = true;

  const base = new URL("..", own.src);
  const adopted = new WeakSet();
  let popup = null;

  const report = (result) => {
    if (typeof window.AuthorizeResult === "function") window.AuthorizeResult(result);
    else console.error("LeadExec sandbox: this page has no AuthorizeResult function.");
  };

  const address = (path, query) => {
    const url = new URL(path, base);
    url.search = new URLSearchParams(query);
    return url;
  };

  const check = async (button) => {
    try {
      const response = await fetch(address("dialog/status/", { button }), {
        credentials: "include",
        cache: "no-store",
      });
      if (response.ok) return await response.json();
    } catch {
      // The dialog will show what is wrong.
    }
    return { result: null, error: null };
  };

  const ask = (button, settled) => {
    if (popup && !popup.closed) return popup.focus();
    const url = address("dialog/", { button, origin: location.origin });
    const dialog = window.open(url, "leadexec", "popup,width=480,height=680");
    if (!dialog) return settled({ valid: false, error: "The browser blocked the LeadExec window." });
    popup = dialog;

    const finish = (result) => {
      clearInterval(watch);
      removeEventListener("message", hear);
      dialog.close();
      popup = null;
      settled(result);
    };
    const hear = (event) => {
      if (event.origin !== base.origin || event.source !== dialog) return;
      if (event.data?.leadexec === "answer") finish(event.data.result);
    };
    addEventListener("message", hear);

    let seenClosed = false;
    const watch = setInterval(() => {
      // An answer sent just before closing may still be under way: it gets one more round.
      if (seenClosed) {
        finish({ valid: false, error: "The LeadExec window was closed without an answer." });
      }
      seenClosed = dialog.closed;
    }, 250);
  };

  const adopt = (button) => {
    adopted.add(button);
    const id = button.getAttribute("data-btnId") ?? "";
    let known = null;
    const first = check(id).then((answer) => {
      known = answer;
      if (answer.result) report(answer.result);
      return answer;
    });

    button.addEventListener("click", async (event) => {
      event.preventDefault();
      if (!known) {
        // Clicked before the first check was through: if it succeeds, it has reported.
        if ((await first).result) return;
      } else if (known.result) {
        known = await check(id);
        if (known.result) return report(known.result);
      }
      if (known.error) return report({ valid: false, error: known.error });
      // Without a question to the server before it, or the browser would block the window.
      ask(id, (result) => {
        known = { result: result.valid ? result : null, error: null };
        report(result);
      });
    });
  };

  const look = () => {
    const button = document.getElementById("leAppButton");
    if (button && !adopted.has(button)) adopt(button);
  };
  look();
  new MutationObserver(look).observe(document, {
    subtree: true,
    childList: true,
    attributeFilter: ["id"],
  });
})();
