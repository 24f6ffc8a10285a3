"use strict";
const byId = (id) => document.getElementById(id);
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");  // over plain http there is no clipboard API
  area.value = text;
  area.readOnly = true;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("copying is not allowed");
}
for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = byId(button.dataset.copy);
    try {
      await copy(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = label; }, 1600);
  });
}
const url = byId("url");
if (url.dataset.explicit === "no" && url.textContent !== location.origin) {
  byId("origin").textContent = location.origin;
  byId("elsewhere").hidden = false;
}
const insecure = byId("insecure");
if (insecure && isSecureContext) insecure.hidden = true;
async function look() {
  if (document.hidden) return;
  let text = "No answer";
  try {
    const answer = await fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    text = answer.ok ? "Healthy" : (await answer.json()).error || "Not healthy";
  } catch { /* the text says it */ }
  if (byId("health-text").textContent !== text) byId("health-text").textContent = text;
  byId("health").classList.toggle("bad", text !== "Healthy");
}
setInterval(look, 10000);
document.addEventListener("visibilitychange", look);
