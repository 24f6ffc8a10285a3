// ------------------------------------------------------------------------------------ registration
const MODES = { open: "Anybody may create an account.", first: "Only the first account may be created.", closed: "Nobody may create an account." };

function showRegistration(state) {
  const parts = [MODES[state.mode]];
  if (state.openUntil) parts.push(`Open for everybody until ${timeOfDay(state.openUntil)}.`);
  if (state.allowed.length) parts.push(`Keys that may: ${state.allowed.join(", ")}.`);
  if (state.mode !== state.setting) parts.push(`The setting says ${state.setting}.`);
  byId("registration-text").textContent = parts.join(" ");
  byId("registration-mode").value = state.mode;
  byId("window-close").hidden = !state.openUntil;
}

async function loadRegistration() {
  showRegistration(await call("GET", "registration"));
}

onAct(byId("registration-form"), async () => {
  showRegistration(await call("PUT", "registration", { mode: byId("registration-mode").value || null }));
  say("Registration is set.");
});
onAct(byId("window-open"), async () => {
  showRegistration(await call("POST", "registration/window", { seconds: 600 }));
  say("Registration is open for 10 minutes.");
});
onAct(byId("window-close"), async () => {
  showRegistration(await call("DELETE", "registration/window"));
  say("The window is closed.");
});
onAct(byId("allow-form"), async () => {
  showRegistration(await call("POST", "registration/keys", { key: byId("allow-key").value.trim() }));
  byId("allow-key").value = "";
  say("The owner of this key may create an account.");
});

// ----------------------------------------------------------------------------------------- backups
async function loadBackups() {
  const found = await call("GET", "backups");
  const often = found.every ? `The server makes one every ${count(Math.round(found.every / 3600), "hour")}.` : "The server makes none by itself.";
  const missing = [...(found.hasDatabase ? [] : ["the PostgreSQL database (use pg_dump)"]), ...(found.hasFiles ? [] : ["the files in the bucket"])];
  byId("backup-text").textContent = `${often} They lie in ${found.folder}.${missing.length ? ` Not in them: ${missing.join(", ")}.` : ""}`;
  byId("backup-list").replaceChildren(...found.archives.map((archive) => make("li", {},
    make("span", {}, moment(archive.madeAt), make("span", { className: "note" }, bytes(archive.bytes))),
    make("a", { href: `admin/api/backups/${encodeURIComponent(archive.name)}`, download: archive.name,
      "aria-label": `Download the backup of ${moment(archive.madeAt)}` }, "Download"))));
}

onAct(byId("backup-form"), async () => {
  say("A backup is being made.");
  const made = await work("POST", "backups", { secret: byId("backup-secret").checked }, byId("backup-progress"));
  say(`The backup is made: ${bytes(made.bytes)}, read back and verified.`);
  await loadBackups();
});

// ------------------------------------------------------------------------------------------- prune
let pruneRequest = null;

function showPruned(pruned) {
  const rows = [
    ["Sessions", pruned.sessions], ["Messages", pruned.messages], ["Expired sign-in requests", pruned.authRequests],
    ["Devices not seen for a year", pruned.devices],
    ["Folders without an owner", pruned.orphanedFolders], ["Unfinished uploads", pruned.unfinishedUploads],
    ["Unused pictures", pruned.unusedPictures], ["Files in all", bytes(pruned.fileBytes)],
  ];
  byId("prune-counts").replaceChildren(...facts(rows.map(([name, value]) => [name, value.toLocaleString()])).children);
}

onAct(byId("prune-form"), async () => {
  const seconds = (id) => (byId(id).value ? 86400 * Number(byId(id).value) : null);
  pruneRequest = { sessionsInactive: seconds("prune-sessions"), messagesOlder: seconds("prune-messages") };
  const found = await work("POST", "prune", { ...pruneRequest, dryRun: true }, byId("prune-progress"));
  showPruned(found);
  byId("prune-found").hidden = false;
  byId("prune-now").hidden = false;
  say("This is what would be deleted. Nothing is deleted yet.");
});
onAct(byId("prune-now"), async () => {
  if (!await confirmed("Delete these?", "What is deleted is gone for good.", "Delete")) return;
  const pruned = await work("POST", "prune", { ...pruneRequest, dryRun: false }, byId("prune-progress"));
  showPruned(pruned);
  byId("prune-now").hidden = true;
  say(`Deleted. The database is ${bytes(pruned.freedBytes)} smaller.`);
});
for (const id of ["prune-sessions", "prune-messages"]) {
  byId(id).addEventListener("input", () => { byId("prune-found").hidden = true; });
}

// --------------------------------------------------------------------------- doctor, log, settings
onAct(byId("doctor-run"), async () => {
  byId("doctor-list").replaceChildren();
  const found = await work("POST", "doctor", {}, byId("doctor-progress"));
  const bad = ["problem", "warning"].flatMap((level) => found.filter((each) => each.level === level));
  byId("doctor-list").replaceChildren(...bad.map(finding));
  const good = found.filter((each) => each.level === "ok");
  byId("doctor-good").hidden = false;
  byId("doctor-good").querySelector("summary").textContent = `${count(good.length, "check")} found nothing wrong`;
  byId("doctor-good").querySelector("ul").replaceChildren(...good.map((each) => make("li", {}, each.text)));
  const problems = found.filter((each) => each.level === "problem").length;
  byId("doctor-text").textContent = problems ? count(problems, "problem") : "No problems.";
  say(byId("doctor-text").textContent);
});

onAct(byId("log-load"), async () => {
  const { lines, process } = await call("GET", "log");
  const pre = byId("log-lines");
  pre.hidden = false;
  pre.textContent = lines.join("\n");
  pre.scrollTop = pre.scrollHeight;
  byId("log-load").textContent = "Load again";
  byId("log-text").textContent = `${count(lines.length, "line")}${process ? ` of process ${process}` : ""}`;
});

let settings = [];

function showSettings() {
  const shown = settings.filter((each) => byId("settings-all").checked || each.origin !== "default");
  byId("settings-rows").replaceChildren(...shown.map((each) => make("tr", {},
    make("th", { scope: "row" }, make("code", {}, each.env)), make("td", {}, each.value ?? "unset"), make("td", {}, each.origin))));
}

onAct(byId("settings-load"), async () => {
  ({ settings } = await call("GET", "settings"));
  byId("settings-table").hidden = byId("settings-only").hidden = false;
  showSettings();
});
byId("settings-all").addEventListener("change", showSettings);
