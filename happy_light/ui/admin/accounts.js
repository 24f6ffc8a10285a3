let listed = "";  // what the list of accounts was loaded for
let opened = null;  // the id of the account whose details are shown

const nameOf = (account) => account.label || account.name || account.username || account.fingerprint;
const pathOf = (id) => `accounts/${encodeURIComponent(id)}`;

async function loadAccounts() {
  const search = byId("search").value.trim();
  const { accounts, more } = await call("GET", `account-summaries?search=${encodeURIComponent(search)}`);
  const focused = document.activeElement?.id;
  byId("account-list").replaceChildren(...accounts.map(accountCard));
  if (focused) byId(focused)?.focus();
  byId("account-note").textContent = accounts.length === 0
    ? (search ? "No account fits." : "There are no accounts yet.")
    : (more ? "There are more; search for them." : "");
  showConnected();
  if (opened) await showDetails(opened);
}

function accountCard(account) {
  // The details that are shown stay until they are loaded again, and so does what is typed in them.
  const details = byId(`details-${account.id}`)
    || make("div", { className: "details", id: `details-${account.id}`, hidden: true });
  const button = make("button", { type: "button", id: `open-${account.id}`, className: "head",
    "aria-expanded": String(!details.hidden), "aria-controls": details.id },
    make("span", { className: "who" }, nameOf(account)),
    make("span", { className: "sockets", id: `sockets-${account.id}` }),
    make("span", { className: "note" }, `last active ${ago(account.lastActiveAt)}`));
  onAct(button, async () => {
    const before = opened;
    opened = before === account.id ? null : account.id;
    if (before) closeDetails(before);
    if (opened) await showDetails(opened);
  });
  const card = make("li", { id: `account-${account.id}` }, button, details);
  card.account = account;
  return card;
}

function closeDetails(id) {
  byId(`open-${id}`)?.setAttribute("aria-expanded", "false");
  const details = byId(`details-${id}`);
  if (!details) return;
  details.hidden = true;
  details.replaceChildren();
}

const socketsOf = (id) => Object.values(overview?.connected[id] || {}).reduce((sum, sockets) => sum + sockets, 0);
const devicesOf = (id) => JSON.stringify(overview?.connected[id]);

// Shows at each account how many sockets it has now.
function showConnected() {
  for (const card of byId("account-list").children) {
    const sockets = socketsOf(card.account.id);
    const shown = byId(`sockets-${card.account.id}`);
    shown.textContent = sockets ? `connected, ${count(sockets, "socket")}` : "";
    shown.classList.toggle("online", sockets > 0);
  }
}

// Loads again what an event shows to be out of date.
async function followAccounts() {
  const now = `${overview.accounts} ${overview.newestAccount}`;
  showConnected();
  if (now !== listed) {
    listed = now;
    await loadAccounts();
  } else if (opened && byId(`details-${opened}`)?.connected !== devicesOf(opened)) {
    await showDetails(opened);
  }
}

async function showDetails(id) {
  const details = byId(`details-${id}`);
  if (!details) {
    opened = null;
    return;
  }
  details.connected = devicesOf(id);
  const [activity, { devices }] = await Promise.all([
    call("GET", `${pathOf(id)}/activity`), call("GET", `${pathOf(id)}/devices`),
  ]);
  if (opened !== id) return;
  byId(`open-${id}`).setAttribute("aria-expanded", "true");
  details.hidden = false;
  const { account } = byId(`account-${id}`);
  const focused = document.activeElement?.id;
  const typed = byId(`label-${id}`);
  details.replaceChildren(
    facts([
      ["Account", account.id], ["Fingerprint", account.fingerprint], ["Username", account.username || "none"],
      ["Created", moment(account.createdAt)],
      ["Sessions active", activity.sessionsActive.toLocaleString()],
      ["Machines", `${activity.machinesOnline.toLocaleString()} online of ${activity.machines.toLocaleString()}`],
    ]),
    make("h3", {}, "Devices"), deviceList(account, devices),
    labelForm(account), accountActs(account),
  );
  if (typed && typed.value !== typed.defaultValue) byId(typed.id).value = typed.value;
  if (focused) byId(focused)?.focus();
}

function facts(rows) {
  return make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function deviceList(account, devices) {
  if (devices.length === 0) return make("p", { className: "hint" }, "None is signed in.");
  return make("ul", { className: "plain" }, ...devices.map((device) => {
    const name = deviceName(device);
    const button = make("button", { type: "button", id: `end-${device.id}`, className: "quiet",
      "aria-label": `Sign out ${name}` }, "Sign out");
    onAct(button, async () => {
      await call("POST", `${pathOf(account.id)}/devices/${encodeURIComponent(device.id)}/sign-out`);
      say(`${name} is signed out.`);
      await showDetails(account.id);
    });
    const sockets = overview?.connected[account.id]?.[device.id] || 0;
    return make("li", { id: `device-${device.id}` },
      make("span", {}, make("span", { className: "device" }, name),
        ...(sockets ? [make("span", { className: "sockets online" }, ` connected, ${count(sockets, "socket")}`)] : []),
        make("span", { className: "note" }, deviceNote(device))),
      button);
  }));
}

const CAME = { signature: "signed in with the secret key", terminal: "approved terminal", link: "linked device", import: "imported", older: "from before devices were recorded", secret: "made with the master secret" };
const deviceName = (device) => device.client || (device.id === "unknown" ? "Clients whose sign-in is not recorded" : "Unnamed client");
const deviceNote = (device) => [
  CAME[device.kind], ...(device.address ? [`from ${device.address}`] : []), `seen ${ago(device.lastSeenAt)}`,
].join(", ");

function labelForm(account) {
  const input = make("input", { id: `label-${account.id}`, defaultValue: account.label || "", maxLength: 100, autocomplete: "off" });
  const form = make("form", { className: "row" },
    make("label", { htmlFor: input.id }, "Label"), input, make("button", { type: "submit", className: "quiet" }, "Save"));
  onAct(form, async () => {
    await call("PUT", `${pathOf(account.id)}/label`, { label: input.value });
    say("The label is saved.");
    await loadAccounts();
  });
  return form;
}

function accountActs(account) {
  const out = make("button", { type: "button", id: `end-all-${account.id}`, className: "quiet" }, "Sign out everywhere");
  onAct(out, async () => {
    const text = "Every device of this account has to sign in again, its terminals and machines too.";
    if (!await confirmed(`Sign out ${nameOf(account)}?`, text, "Sign out")) return;
    await call("POST", `${pathOf(account.id)}/sign-out`);
    say(`${nameOf(account)} is signed out everywhere.`);
    await showDetails(account.id);
  });
  const bar = make("progress", { hidden: true, "aria-label": "Deletion" });
  const remove = make("button", { type: "button", id: `delete-${account.id}`, className: "danger" }, "Delete account");
  onAct(remove, async () => {
    const text = "The account goes for good, with its sessions, messages, machines and files.";
    if (!await confirmed(`Delete ${nameOf(account)}?`, text, "Delete", account.fingerprint.slice(0, 4))) return;
    const done = await work("DELETE", pathOf(account.id), undefined, bar);
    opened = null;
    say(`${nameOf(account)} is deleted: ${count(done.messages, "message")}, ${bytes(done.bytes)} of files.`);
    await loadAccounts();
  });
  return make("p", { className: "row acts" }, out, remove, bar);
}

// Asks in a dialog; with a word it has to be typed.
function confirmed(head, text, yes, word) {
  const dialog = byId("confirm");
  byId("confirm-head").textContent = head;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm-typed").hidden = !word;
  byId("confirm-word").textContent = word || "";
  const input = byId("confirm-input");
  input.value = "";
  const check = () => { byId("confirm-yes").disabled = Boolean(word) && input.value.trim() !== word; };
  input.oninput = check;
  check();
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => { dialog.onclose = () => resolve(dialog.returnValue === "yes"); });
}

let typing = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => loadAccounts().catch((error) => say(error.message, true)), 200);
});
