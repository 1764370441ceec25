// The page works without this file: it only adds what plain HTML can't do.
"use strict";

// A menu of an action closes with Escape, and when the person goes elsewhere.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll(".actions details[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll(".actions details[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

// What follows live doesn't replace a part that the person is using at this moment.
function isInUse(part) {
  return part.contains(document.activeElement) || part.querySelector("details[open]") !== null;
}
for (const name of ["htmx:sseBeforeMessage", "htmx:beforeRequest"]) {
  document.addEventListener(name, (event) => {
    const part = event.target;
    if (part.dataset.careful !== undefined && isInUse(part)) event.preventDefault();
  });
}

// A batch that ends, or whose plan is ready, is another page: it is loaded anew.
document.addEventListener("htmx:sseMessage", (event) => {
  if (event.detail.type === "reload") window.location.reload();
});

// A button that was pressed is not pressed twice.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  const pressed = event.submitter;
  setTimeout(() => { if (pressed) pressed.disabled = true; }, 0);
});
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button:disabled")) button.disabled = false;
});
