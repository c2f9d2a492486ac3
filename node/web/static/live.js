// What happens at the node shows without reload: server-sent events become htmx events.
const live = document.getElementById("live");
const say = (state, text) => {
  live.dataset.state = state;
  live.querySelector(".says").textContent = text;
};
let source = null, waiting = null;
const shown = () => document.querySelector("[data-this-exam]");

// At most one refresh a second, and the last change is never left out.
function refresh() {
  waiting ??= setTimeout(() => { waiting = null; htmx.trigger(document.body, "exams-changed"); }, 300);
}
function listen() {
  const exam = shown();
  source?.close();
  source = new EventSource(exam ? `/events?exam=${exam.dataset.thisExam}&told=${exam.dataset.told}` : "/events");
  source.addEventListener("listening", () => {
    say("on", "Live");
    if (!exam) refresh(); // what was missed before
  });
  source.addEventListener("changed", (message) => {
    const exam = shown();
    if (exam && !message.data.split(" ").includes(exam.dataset.thisExam)) return;
    if (exam?.dataset.isRead) document.getElementById("stale").hidden = false;
    else refresh();
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) stopped();
    else say("connecting", "Connecting");
  });
}
// A browser gives up where the answer is none of events: logged out, or something stands in between.
async function stopped() {
  say("off", "Not live: load the page again");
  const answer = await fetch("/", { headers: { "X-Live": "1" } }).catch(() => null);
  // Who is logged out leaves no patient on the screen: the guard leads to the login.
  if (answer?.status === 401) location.replace(location.pathname === "/search" ? "/" : location.pathname + location.search);
  else setTimeout(watch, 10_000);
}
// A page in the background holds none of the few connections that a browser has to a host.
function watch() {
  if (!document.hidden) return listen();
  source?.close();
  say("connecting", "Connecting");
}
watch();
document.addEventListener("visibilitychange", watch);
window.addEventListener("pagehide", () => source?.close());
window.addEventListener("pageshow", (event) => event.persisted && watch());
document.addEventListener("change", (event) => event.target.closest("form[data-autosubmit]")?.requestSubmit());
