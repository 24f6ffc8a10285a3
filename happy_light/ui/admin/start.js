let stream = null;

function signedOut(text) {
  stream?.abort();
  stream = null;
  byId("content").hidden = true;
  byId("sign-in").hidden = false;
  if (text) byId("sign-in-text").textContent = text;
}

// Signs in with the code of a link, which leaves the address bar at once.
async function signIn() {
  const code = location.hash.slice(1);
  if (code.length < 20) return;  // a part of the page
  history.replaceState(null, "", location.pathname);
  await request("POST", "admin/session", { code });
}

function setLive(text, good) {
  byId("live-text").textContent = text;
  byId("live").classList.toggle("bad", !good);
}

// Follows the event stream for as long as the page is signed in and visible, and connects again when it breaks.
async function follow() {
  if (stream) return;
  const mine = stream = new AbortController();
  while (stream === mine) {
    try {
      for await (const line of lines(await request("GET", "admin/api/live", undefined, { signal: mine.signal }))) {
        overview = line;
        setLive("Live", true);
        showOverview();
        followAccounts().catch((error) => say(error.message, true));
      }
    } catch (error) {
      if (stream === mine) setLive(error.status ? error.message : "Not connected", false);
    }
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

async function start() {
  try {
    await signIn();
  } catch (error) {
    return signedOut(error.message);
  }
  try {
    const session = await call("GET", "session");
    byId("operator").textContent = `Signed in as ${session.operator} until ${timeOfDay(session.expiresAt)}`;
    byId("sign-in").hidden = true;
    byId("content").hidden = false;
    follow();
    for (const load of [loadRegistration, loadBackups]) load().catch((error) => say(error.message, true));
  } catch (error) {
    if (error.status !== 401) say(error.message, true);
  }
}

onAct(byId("sign-out"), async () => {
  await request("DELETE", "admin/session");
  signedOut("You are signed out.");
});
// A page that nobody sees costs the server nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.abort();
    stream = null;
  } else if (!byId("content").hidden) follow();
});
addEventListener("hashchange", () => { if (location.hash.length > 20) start(); });
start();
