// Code of a site, for the TypeScript compiler alone: tests/test_module_types.py runs it.
import {
  connect,
  disconnect,
  LeadExecError,
  state,
} from "../../django_leadexec/static/django_leadexec/leadexec.esm.js";
import type {
  Button,
  Connection,
  ErrorCode,
  State,
} from "../../django_leadexec/static/django_leadexec/leadexec.esm.js";

const place: HTMLElement = document.createElement("div");

// Exports

const plain: Button = connect(place);
const button = connect(place, {
  stateUrl: "/leadexec/state/",
  label: "Connect",
  next: "/leads/",
  load: "click",
  nonce: "n",
  onState: ({ connections }) => console.log(connections.length),
});
const ready: State = await button.ready;
const { csrf_header, csrf_token } = await button.refresh();
await fetch(ready.disconnect_url, { method: "POST", headers: { [csrf_header]: csrf_token } });
button.remove();
plain.remove();

const known: State = await state();
const first: Connection | undefined = known.connections[0];
if (first?.status === "rejected") console.log(first.account_id.length, new Date(first.since));

try {
  const { status, message } = await disconnect(first?.id, { stateUrl: "/elsewhere/" });
  console.log(status === "already_disconnected", message.length);
  await disconnect();
} catch (error) {
  if (!(error instanceof LeadExecError)) throw error;
  const code: ErrorCode = error.code;
  console.log(code === "throttled", error.message, error.cause);
}

// Events

document.addEventListener("leadexec:authorize", (event) => {
  const gesture: boolean = event.detail.gesture;
  if (!gesture) event.preventDefault();
});
place.addEventListener("leadexec:connected", ({ detail }) => {
  console.log(detail.status === "signed_in", detail.redirect?.length, detail.gesture);
});
window.addEventListener("leadexec:redirect", ({ detail }) => {
  console.log(detail.status === "login_required", detail.redirect.length);
});
place.addEventListener("leadexec:ignored", (event) => event.preventDefault());
place.addEventListener("leadexec:error", ({ detail }) => {
  const code: ErrorCode = detail.code;
  console.log(code, detail.message.length);
});
document.addEventListener("leadexec:disconnected", ({ detail }) => {
  console.log(detail.status === "disconnected", detail.message.length);
});
document.addEventListener("leadexec:load", (event) => console.log(event.type));

// What has to be refused

// @ts-expect-error: the element may not be there
connect(document.querySelector("#leadexec"));
// @ts-expect-error: there is no such time to load
connect(place, { load: "later" });
// @ts-expect-error: there is no such option
connect(place, { title: "Connect" });
// @ts-expect-error: no answer holds a token
console.log(known.refresh_token);
// @ts-expect-error: no event carries a token
document.addEventListener("leadexec:authorize", (event) => console.log(event.detail.token));
