// Keyboard shortcuts; a person may turn single keys off (WCAG 2.1.4).
const help = document.getElementById("help");
const on = document.getElementById("keys-on");
on.checked = localStorage.getItem("keys") !== "off";
on.addEventListener("change", () => localStorage.setItem("keys", on.checked ? "on" : "off"));
document.getElementById("help-open").addEventListener("click", () => help.showModal());
document.getElementById("help-close").addEventListener("click", () => help.close());

const step = (by) => {
  const links = [...document.querySelectorAll("a.opens")];
  const at = links.indexOf(document.activeElement);
  const next = links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + by))];
  next?.focus();
  next?.closest("tr").scrollIntoView({ block: "nearest" });
};
const press = (selector) => () => document.querySelector(selector)?.click();
const focus = (selector) => () => document.querySelector(selector)?.focus();
const keys = {
  "?": () => help.showModal(),
  "/": focus("#q"),
  j: () => step(1), k: () => step(-1),
  a: press("#accept"), r: focus("#reject-reason"), c: focus("#comment"),
  u: () => { if (document.querySelector("[data-this-exam]")) location.href = "/"; },
  ArrowRight: press("#next-frame"), ArrowLeft: press("#previous-frame"),
  h: press("#toggle-activation"), m: press("#toggle-filled"), v: press("#toggle-view"), f: press("#toggle-frame"),
  "+": press("#zoom-in"), "-": press("#zoom-out"), 0: press("#zoom-reset"),
};
const MAY_REPEAT = /^([jk+-]|Arrow)/; // a key held down must not accept what comes next
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
  const field = event.target.closest("input:not([type=radio]):not([type=checkbox]), select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (!on.checked || !(event.key in keys) || (event.repeat && !MAY_REPEAT.test(event.key))) return;
  if (event.key.startsWith("Arrow") && event.target.closest("input[type=radio]")) return;
  event.preventDefault();
  keys[event.key]();
});
