// What happens at the node shows without reload: server-sent events become htmx events.
const live = document.getElementById("live");
const say = (state, text) => {
  live.dataset.state = state;
  live.querySelector(".says").textContent = text;
};
let waiting = null;
const source = new EventSource("/events");
source.addEventListener("listening", () => say("on", "Live"));
source.addEventListener("changed", (message) => {
  const changed = message.data.split(" ");
  const exam = document.querySelector("[data-this-exam]");
  if (exam && changed.includes(exam.dataset.thisExam)) {
    if (exam.dataset.isRead) document.getElementById("stale").hidden = false;
    else htmx.trigger(document.body, "exams-changed");
  }
  // At most one refresh a second, and the last change is never left out.
  if (!exam && waiting === null) {
    waiting = setTimeout(() => { waiting = null; htmx.trigger(document.body, "exams-changed"); }, 300);
  }
});
source.addEventListener("error", () => {
  if (source.readyState === EventSource.CLOSED) say("off", "Not live: load the page again");
  else say("connecting", "Connecting");
});
window.addEventListener("pagehide", () => source.close());
document.addEventListener("change", (event) => event.target.closest("form[data-autosubmit]")?.requestSubmit());
