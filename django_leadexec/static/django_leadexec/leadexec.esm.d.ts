/** The types of leadexec.esm.js: the button for pages that no template with the tag has made. */

export type ConnectionStatus = "active" | "rejected";

/** A connection of the visitor's own. */
export interface Connection {
  id: number;
  /** Empty where the site does not ask LeadExec for it. */
  account_id: string;
  status: ConnectionStatus;
  /** ISO 8601. */
  since: string;
}

/** What `GET leadexec:state` answers. */
export interface State {
  button_id: string;
  script_url: string;
  stylesheet_url: string;
  callback_url: string;
  disconnect_url: string;
  csrf_header: string;
  csrf_token: string;
  visitor: string;
  connections: Connection[];
}

/** What goes wrong in the page itself. */
export type PageErrorCode =
  | "script"
  | "no_answer"
  | "not_authorized"
  | "page"
  | "network"
  | "unexpected";

/** What the site answers. */
export type SiteErrorCode =
  | "malformed"
  | "csrf"
  | "not_allowed"
  | "not_found"
  | "method"
  | "conflict"
  | "reload"
  | "revoking"
  | "user_exists"
  | "too_large"
  | "rejected"
  | "throttled"
  | "unavailable"
  | "busy";

export type ErrorCode = PageErrorCode | SiteErrorCode;

/**
 * What `connect()`, `disconnect()` and `state()` fail with. The message is for the visitor. With the
 * code "network", "unexpected" or "page" it is in English unless the button is on the page.
 */
export class LeadExecError extends Error {
  constructor(code: ErrorCode, message?: string, options?: { cause?: unknown });
  readonly name: "LeadExecError";
  readonly code: ErrorCode;
}

export interface StateOptions {
  /** Where `leadexec:state` is on the site. */
  stateUrl?: string;
}

export interface ConnectOptions extends StateOptions {
  /** The text on the button. */
  label?: string;
  /** The local path to go to from the login or confirm page. */
  next?: string;
  /** When LeadExec's files are fetched. */
  load?: "page" | "click";
  /** The page's nonce, for the stylesheets and LeadExec's script. */
  nonce?: string;
  /** Called at first, and after each change. */
  onState?: (state: State) => void;
}

export interface Button {
  /** Settled once the button is there. */
  readonly ready: Promise<State>;
  /** Asks the site again, and shows what is so now. */
  refresh(): Promise<State>;
  /** Empties the element. */
  remove(): void;
}

export interface Disconnected {
  status: "disconnected" | "already_disconnected";
  /** For the visitor. */
  message: string;
}

/** Puts the button, or the connected state, into the element. A page has one: a second call moves it. */
export function connect(element: Element, options?: ConnectOptions): Button;

/** Ends the connection with this id, or the only one there is. */
export function disconnect(
  id?: Connection["id"] | null,
  options?: StateOptions,
): Promise<Disconnected>;

/** Who is connected, and what a page needs. */
export function state(options?: StateOptions): Promise<State>;

/** The events; they bubble from the element. None carries a token. */
export interface LeadExecEventMap {
  "leadexec:authorize": CustomEvent<{ gesture: boolean }>;
  "leadexec:connected": CustomEvent<{
    status: "connected" | "signed_in";
    redirect: string | null;
    gesture: boolean;
  }>;
  "leadexec:redirect": CustomEvent<{
    status: "login_required" | "confirm_required";
    redirect: string;
  }>;
  "leadexec:ignored": CustomEvent<Record<string, never>>;
  "leadexec:error": CustomEvent<{ code: ErrorCode; message: string }>;
  "leadexec:disconnected": CustomEvent<Disconnected>;
  /** The page's own word: LeadExec's files may be fetched. */
  "leadexec:load": Event;
}

declare global {
  interface GlobalEventHandlersEventMap extends LeadExecEventMap {}
}
