/* A member of the document itself: markup like <img name="querySelector"> hides it otherwise. */
export function doc(name, ...values) {
  const member = Reflect.get(Document.prototype, name, document);
  return typeof member === "function" ? member.apply(document, values) : member;
}
