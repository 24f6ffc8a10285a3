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
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  await request("POST", "admin/session", { code });
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
    byId("content").hidden = false;
  } catch (error) {
    if (error.status !== 401) say(error.message, true);
  }
}

onAct(byId("sign-out"), async () => {
  await request("DELETE", "admin/session");
  signedOut("You are signed out.");
});
addEventListener("hashchange", start);
start();
