const byId = (id) => document.getElementById(id);

// Returns an element with these properties, attributes (data-… and aria-… by their names) and children.
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

let hiding = 0;

// Says something to everybody, screen readers included. An error stays until the next text, anything else for 10 s.
function say(text, bad = false) {
  clearTimeout(hiding);
  if (!bad) hiding = setTimeout(() => { byId("said").textContent = ""; }, 10_000);
  byId("said").textContent = text;
  byId("said").classList.toggle("bad", bad);
}

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Sends a request of this page. The header tells the server that no form or link of another site made it.
async function request(method, path, body, options = {}) {
  const headers = { "x-happy-admin": "1" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  const answer = await fetch(path, { method, headers, body: text, cache: "no-store", ...options });
  if (answer.ok) return answer;
  const error = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "admin/session") signedOut();
  throw new Refused(answer.status, error.message || error.error || `The server answered ${answer.status}`);
}

async function call(method, path, body) {
  return (await request(method, `admin/api/${path}`, body)).json();
}

// Reads an answer line by line: newline-delimited JSON.
async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

// Does long work, shows its progress in a <progress>, and returns its result.
async function work(method, path, body, bar) {
  bar.hidden = false;
  bar.removeAttribute("value");
  try {
    for await (const line of lines(await request(method, `admin/api/${path}`, body))) {
      if ("error" in line) throw new Refused(200, line.error);
      if ("result" in line) return line.result;
      if (line.total) {
        bar.max = line.total;
        bar.value = line.done;
      }
    }
    throw new Refused(0, "The server ended before the work was done");
  } finally {
    bar.hidden = true;
  }
}

// Calls `act` when a button is pressed or a form is sent; the button cannot be pressed again until it is done. It loses
// the focus meanwhile, and gets it back; if it is gone by then, its account does, or the search for accounts.
function onAct(target, act) {
  const button = target.tagName === "FORM" ? target.querySelector("button[type=submit]") : target;
  target.addEventListener(target.tagName === "FORM" ? "submit" : "click", async (event) => {
    event.preventDefault();
    const focused = document.activeElement;
    button.disabled = true;
    try {
      await act();
    } catch (error) {
      say(error.message, true);
    }
    button.disabled = false;
    const active = document.activeElement;  // in a dialog that was just closed, nobody sees it
    if (active !== document.body && active.getClientRects().length > 0) return;
    const next = focused.isConnected ? focused : byId(focused.id) || byId(`open-${opened}`) || byId("search");
    next.focus();
  });
}

const bytes = (count) => {
  let amount = count;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (amount < 1024) return `${unit === "B" ? amount : amount.toFixed(1)} ${unit}`;
    amount /= 1024;
  }
  return `${amount.toFixed(1)} TiB`;
};
const count = (number, one, many = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : many}`;
const moment = (ms) => new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const timeOfDay = (ms) => new Date(ms).toLocaleTimeString([], { timeStyle: "short" });
const ago = (ms) => {
  const seconds = Math.max(0, (Date.now() - ms) / 1000);
  if (seconds < 60) return "just now";
  for (const [size, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds >= size) return `${count(Math.floor(seconds / size), name)} ago`;
  }
};
