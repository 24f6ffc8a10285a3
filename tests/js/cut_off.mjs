// Cut the official client's connection again and again while updates arrive; print what it received as JSON.
// Usage: node cut_off.mjs URL TOKEN CUTS
import { io } from "socket.io-client";

const [url, token, cuts] = process.argv.slice(2);
const socket = io(url, {
  path: "/v1/updates",
  transports: ["websocket"],
  auth: { token, clientType: "user-scoped" },
  reconnectionDelay: 1,
  reconnectionDelayMax: 5,
  randomizationFactor: 0,
});
const seqs = [];
let connects = 0;
let recovered = 0;

socket.on("connect_error", (error) => console.error(error.message));
socket.on("update", (update) => seqs.push(update.seq));
socket.on("connect", () => {
  connects += 1;
  recovered += socket.recovered ? 1 : 0;
  if (connects > Number(cuts)) {
    process.stdout.write("settled\n");
    return;
  }
  // After a random time, since the moment of the cut is what matters.
  setTimeout(() => socket.io.engine.transport.ws.terminate(), Math.random() * 20);
});
process.stdin.on("data", () => {
  // The writer has stopped: a ping behind everything proves that nothing more is to come.
  socket.emit("ping", () => {
    process.stdout.write(JSON.stringify({ seqs, connects, recovered }) + "\n");
    socket.disconnect();
    process.exit(0);
  });
});
