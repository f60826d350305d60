/* Only with DEBUG: says why the button can't work where it stands, in place and in the console. */
(() => {
  "use strict";

  const FORM =
    "This leadexec_button stands inside a form. For a connected visitor it contains a form of its " +
    "own, and HTML allows no form inside a form: Disconnect would send yours, and end it there. " +
    "Put the tag outside of the form.";
  const SHADOW =
    "This leadexec_button stands in a shadow tree. LeadExec's script looks for the button in the " +
    "document, and finds none here. Put the tag into the document, or into a slot.";
  const OPENER =
    "This page has the header Cross-Origin-Opener-Policy: same-origin. It cuts LeadExec's window " +
    "off from the page, so its answer may never arrive. In the settings: " +
    'SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin-allow-popups".';

  function* trees(root = document) {
    yield root;
    for (const { shadowRoot } of root.querySelectorAll("*")) {
      if (shadowRoot) yield* trees(shadowRoot);
    }
  }

  async function openerPolicy() {
    try {
      const { headers } = await fetch(location.href, { method: "HEAD" });
      return headers.get("Cross-Origin-Opener-Policy") ?? "";
    } catch {
      return "";
    }
  }

  async function examine(note) {
    const faults = [];
    if (note.getRootNode() !== document) faults.push(SHADOW);
    if (note.closest("form")) faults.push(FORM);
    if (/^\s*same-origin\s*(;|$)/.test(await openerPolicy())) faults.push(OPENER);
    if (!faults.length) return note.remove();
    note.textContent = faults.join(" ");
    note.classList.replace("leadexec-debug-waits", "leadexec-debug");
    for (const fault of faults) console.error(`django-leadexec: ${fault}`);
  }

  for (const tree of trees()) {
    for (const note of tree.querySelectorAll(".leadexec-debug-waits")) examine(note);
  }
})();
