let overview = null;

function tile(name, value, note, more) {
  return make("div", { className: "tile" },
    make("p", { className: "name-of" }, name), make("p", { className: "value" }, value),
    make("p", { className: "note" }, note), ...(more ? [more] : []));
}

// Returns a small chart of counts, the newest at the right; `step` is in s.
function sparkline(counts, step, what) {
  const length = 3600 / step;
  const values = [...new Array(Math.max(0, length - counts.length)).fill(0), ...counts];
  const top = Math.max(1, ...values);
  const points = values.map((value, index) => `${(index * 300 / (length - 1)).toFixed(1)},${(38 - 36 * value / top).toFixed(1)}`);
  const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  chart.setAttribute("viewBox", "0 0 300 40");
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("role", "img");
  const total = counts.reduce((sum, value) => sum + value, 0);
  chart.setAttribute("aria-label", `${count(total, what)} in the last hour, at most ${(top / step).toFixed(1)} a second`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  chart.append(line);
  return chart;
}

function rate(counts, step) {
  const now = counts.length ? counts[counts.length - 1] / step : 0;
  return `${now >= 10 || now === 0 ? Math.round(now) : now.toFixed(1)}/s`;
}

function showOverview() {
  const { sockets, connected, processes, database } = overview;
  const online = Object.keys(connected).length;
  const devices = Object.values(connected).reduce((sum, each) => sum + Object.keys(each).length, 0);
  const hour = (counts) => counts.reduce((sum, value) => sum + value, 0).toLocaleString();
  byId("tiles").replaceChildren(
    tile("Accounts connected", online.toLocaleString(), `of ${count(overview.accounts, "account")}`),
    tile("Devices connected", devices.toLocaleString(), count(sockets.user, "app socket")),
    tile("Sessions active", overview.sessionsActive.toLocaleString(), `${count(sockets.session, "socket")}`),
    tile("Machines online", overview.machinesOnline.toLocaleString(), `${count(sockets.machine, "socket")}`),
    tile("Messages", rate(overview.messages, overview.step), `${hour(overview.messages)} in the last hour`,
      sparkline(overview.messages, overview.step, "message")),
    tile("Calls", rate(overview.calls, overview.step), `${hour(overview.calls)} in the last hour`,
      sparkline(overview.calls, overview.step, "call")),
    tile("Database", bytes(database.database + database.log),
      overview.diskFree === null ? "on its own server" : `${bytes(overview.diskFree)} free on the disk`),
    tile("Last backup", overview.backup ? (overview.backup.error ? "Failed" : ago(overview.backup.at)) : "None known",
      overview.backup ? moment(overview.backup.at) : "make one below"),
  );
  showProcesses(processes);
  byId("warnings").hidden = overview.warnings.length === 0;
  byId("warnings").replaceChildren(...overview.warnings.map(finding));
}

function showProcesses(processes) {
  byId("processes").hidden = processes.length < 2;
  const cell = (text, number) => make("td", number ? { className: "number" } : {}, text);
  const row = (name, version, since, sockets, memory) => make("tr", {},
    make("th", { scope: "row" }, name), cell(version), cell(since),
    ...["user", "session", "machine"].map((kind) => cell(sockets[kind].toLocaleString(), true)), cell(bytes(memory), true));
  const rows = [...processes]
    .sort((one, other) => one.startedAt - other.startedAt)
    .map((each) => row(`${each.host}, ${each.pid}`, each.version, moment(each.startedAt), each.sockets, each.memory));
  const memory = processes.reduce((sum, each) => sum + each.memory, 0);
  byId("process-rows").replaceChildren(...rows, row(`All ${processes.length}`, "", "", overview.sockets, memory));
}

function finding({ name, level, text, cure }) {
  const words = { ok: "OK", warning: "Warning", problem: "Problem" };
  return make("li", { className: level },
    make("strong", {}, `${words[level]}: ${name}`), make("p", {}, text), ...(cure ? [make("p", { className: "cure" }, cure)] : []));
}
