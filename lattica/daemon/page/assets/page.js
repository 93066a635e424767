// Shows what the node says. All of it goes in as text, never as markup: peers choose their words.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const LINES = 500;
const MOST_DRAWN = 40;
const byId = (id) => document.getElementById(id);

function made(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const short = (id) => "…" + id.slice(-8);
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const name = (text) => text.length > 40 ? text.slice(0, 20) + short(text) : text;

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${bytes.toFixed(unit ? 1 : 0)} ${units[unit]}`;
}

function duration(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  for (const [length, unit] of parts) if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  return "0 s";
}

// What has the keyboard's focus is drawn anew only if it is another one.
function replaceIfChanged(element, children, key) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  const focused = document.activeElement && element.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  element.replaceChildren(...children());
  if (focused) for (const each of element.querySelectorAll("a")) if (each.getAttribute("href") === focused) each.focus();
}

function drawGraph(status) {
  const peers = status.peers.slice(0, MOST_DRAWN);
  const key = JSON.stringify(peers.map((peer) => [peer.peer_id, peer.path, peer.relay]));
  replaceIfChanged(byId("graph"), () => {
    const at = new Map();
    peers.forEach((peer, index) => {
      const angle = (2 * Math.PI * index) / peers.length - Math.PI / 2;
      at.set(peer.peer_id, [160 * Math.cos(angle), 100 * Math.sin(angle)]);
    });
    const lines = [], nodes = [];
    for (const peer of peers) {
      const [x, y] = at.get(peer.peer_id);
      const relayed = peer.path === "relayed";
      const [x1, y1] = (relayed && at.get(peer.relay)) || [0, 0];
      lines.push(drawn("line", { x1, y1, x2: x, y2: y, class: relayed ? "relayed" : "direct" }));
      const text = drawn("text", { x, y: y + (y > 0 ? 22 : -14) });
      text.textContent = short(peer.peer_id);
      const title = drawn("title", {});
      title.textContent = `${peer.peer_id}, ${peer.path}`;
      nodes.push(drawn("a", { href: "#" + peer.peer_id, "aria-label": title.textContent }, title, drawn("circle", { cx: x, cy: y, r: 8 }), text));
    }
    const own = drawn("text", { x: 0, y: 4 });
    own.textContent = "this node";
    return [...lines, drawn("circle", { cx: 0, cy: 0, r: 30 }), own, ...nodes];
  }, key);
}

function showPeers(peers) {
  byId("peers").replaceChildren(...peers.map((peer) => {
    const row = made("tr");
    row.id = peer.peer_id;
    const id = made("td");
    id.append(made("code", peer.peer_id));
    id.title = peer.peer_id;
    const rtt = peer.rtt_seconds === null ? "?" : `${(peer.rtt_seconds * 1000).toFixed(1)} ms`;
    const streams = peer.connections.reduce((sum, each) => sum + each.streams, 0);
    row.append(id, made("td", peer.path, peer.path === "relayed" ? "relayed" : "direct"), made("td", rtt), made("td", streams), made("td", peer.agent));
    return row;
  }));
}

function showHealth(status) {
  const rows = [["Addresses", status.addrs.join(" ") || "none"]];
  for (const reason of status.announcing) rows.push(["Waiting for", reason]);
  if (status.dht) rows.push(["DHT", `${status.dht.mode}, ${count(status.dht.peers, "peer")}, ${count(status.dht.values, "value")} kept (${status.dht.storage})`]);
  if (status.relay) {
    rows.push(["Relay", `${status.relay.reservations} of ${status.relay.max_reservations} reservations`]);
    rows.push(["", `${status.relay.circuits} of ${status.relay.max_circuits} circuits`]);
  }
  for (const topic of status.topics) rows.push(["Topic", `${name(topic.name)}: ${count(topic.peers, "peer")}`]);
  for (const each of status.documents) rows.push(["Document", `${each.name}: ${each.open ? count(each.peers, "peer") : "closed"}`]);
  byId("health").replaceChildren(...rows.flatMap(([term, value]) => [made("dt", term), made("dd", value)]));
}

function showTransfers(transfers) {
  const none = [made("p", "none under way")];
  byId("transfers").replaceChildren(...(transfers.length ? transfers.map((each) => {
    const box = made("div");
    box.append(made("p", `${each.kind} ${each.name.slice(0, 60)}: ${each.phase}, ${size(each.bytes_done)} of ${size(each.bytes_total)}, ${size(each.bytes_per_second)}/s from ${each.sources}`));
    const bar = made("progress");
    bar.max = each.bytes_total || 1;
    bar.value = each.bytes_done;
    bar.setAttribute("aria-label", each.name.slice(0, 60));
    box.append(bar);
    return box;
  }) : none));
}

function show(status) {
  byId("peer-id").textContent = status.peer_id;
  byId("state").textContent = "live";
  byId("state").className = "";
  byId("uptime").textContent = `version ${status.version}, up ${duration(status.uptime_seconds)}, ${count(status.peers.length, "peer")}`;
  drawGraph(status);
  showPeers(status.peers);
  showHealth(status);
  showTransfers(status.transfers);
  const served = status.publications.map((each) => made("li", `${each.name}: ${count(each.files, "file")}, ${size(each.bytes)}`));
  served.push(...status.ports.map((each) => made("li", `port ${each.name}: ${count(each.connections, "connection")}`)));
  byId("serves").replaceChildren(...(served.length ? served : [made("li", "nothing")]));
}

function log(line) {
  const list = byId("log");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 4;
  list.append(made("li", `${new Date(line.time * 1000).toLocaleTimeString()} ${line.level} ${line.message}`, line.level));
  while (list.childElementCount > LINES) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

const events = new EventSource("/events");
events.addEventListener("status", (event) => show(JSON.parse(event.data)));
events.addEventListener("log", (event) => log(JSON.parse(event.data)));
events.addEventListener("open", () => byId("log").replaceChildren());
events.addEventListener("error", () => {
  byId("state").textContent = "the node does not answer; trying again";
  byId("state").className = "lost";
});
