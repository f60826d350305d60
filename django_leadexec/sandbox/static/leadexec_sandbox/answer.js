// The dialog's last page: hands the answer to the page that opened it.
(() => {
  "use strict";

  const { origin, result } = document.getElementById("answer").dataset;
  if (window.opener) {
    window.opener.postMessage({ leadexec: "answer", result: JSON.parse(result) }, origin);
    // The opener closes the window when it has heard; this is for one that has gone.
    setTimeout(() => window.close(), 1000);
  } else {
    document.getElementById("closing").hidden = true;
    document.getElementById("cut-off").hidden = false;
  }
})();
