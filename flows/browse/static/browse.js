"use strict";
// The page's only script. Text of others is set as text; HTML comes from this server alone, which escapes it.
const byId = id => document.getElementById(id);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const csrf = document.querySelector("meta[name=csrf]");
const source = document.body.dataset.source;
const viewer = byId("viewer");
const WORDS = new Map([["1", "yes"], ["0", "no"], ["null", "unsure"]]);
const KEYS = {y: "1", n: "0", u: "null"};
let opened = null;  // the tile whose picture is shown
let quiet = 0;

function say(text, bad = false) {
  clearTimeout(quiet);
  byId("said").textContent = text;
  byId("said").classList.toggle("bad", bad);
  if (text) quiet = setTimeout(() => say(""), bad ? 12000 : 5000);
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: body instanceof Blob ? body : JSON.stringify(body),
    headers: {[csrf.dataset.header]: csrf.content, "content-type": body instanceof Blob ? "application/octet-stream" : "application/json"},
  };
  const answer = await fetch(path, options).catch(() => { throw new Error("the server does not answer; is it still running?"); });
  const text = await answer.text();
  let data;
  try { data = JSON.parse(text); } catch { data = {error: text}; }
  if (!answer.ok) throw new Error(data.error || `error ${answer.status}`);
  return data;
}

async function part(path) {
  const answer = await fetch(path, {headers: {"x-part": "1"}}).catch(() => { throw new Error("the server does not answer; is it still running?"); });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text.startsWith("{") ? JSON.parse(text).error : text);
  return new DOMParser().parseFromString(text, "text/html").body;
}

const trying = work => async (...given) => { try { await work(...given); } catch (error) { say(error.message, true); } };

// Work that takes longer: asked about until it is done.
async function finished(job, tell) {
  while (job.state === "waiting" || job.state === "working") {
    tell(job.says);
    await new Promise(resolve => setTimeout(resolve, 300));
    job = await ask(`/api/jobs/${job.job}`);
  }
  if (job.state === "failed") throw new Error(job.says);
  return job.result;
}

// --- the grid

const tiles = () => all(".tile");
const placeOf = element => { const [dataset, shard, sample] = JSON.parse(element.dataset.place); return {dataset, shard, sample}; };
const labelOf = tile => tile.parentElement.dataset.label || "";

function focusTile(tile) {
  all(".tile .open").forEach(link => { link.tabIndex = -1; });
  const link = tile.querySelector(".open");
  link.tabIndex = 0;
  link.focus();
}

function roam() {
  all(".grid").forEach(grid => all(".open", grid).forEach((link, place) => { link.tabIndex = place ? -1 : 0; }));
}

// The tile that lies in a direction: by what is on the screen, so that it is right for every width.
function neighbour(tile, key) {
  const list = tiles(), at = list.indexOf(tile);
  if (key === "ArrowRight") return list[at + 1];
  if (key === "ArrowLeft") return list[at - 1];
  const own = tile.getBoundingClientRect(), down = key === "ArrowDown";
  const rows = list.filter(other => { const top = other.getBoundingClientRect().top; return down ? top > own.top + 5 : top < own.top - 5; });
  const tops = rows.map(other => other.getBoundingClientRect().top), row = down ? Math.min(...tops) : Math.max(...tops);
  const near = rows.filter((_, n) => Math.abs(tops[n] - row) < 5);
  const off = other => Math.abs(other.getBoundingClientRect().left - own.left);
  return near.sort((a, b) => off(a) - off(b))[0];
}

function fillTags(tile, tags) {
  tile.querySelector(".tags").replaceChildren(...tags.map(tag => {
    const item = document.createElement("li"), name = document.createElement("bdi");
    name.textContent = tag.name;
    item.append(name, ` ${tag.score.toFixed(2)}`);
    if (!tag.seen) item.className = "novel";
    return item;
  }));
}

// Tags are fetched a few pictures at a time, as they come into sight: those of a whole page may lie in sixty shards.
const TOGETHER = 12;
let wanted = [], fetching = false;
async function fetchTags() {
  if (fetching) return;
  fetching = true;
  while (wanted.length) {
    const some = wanted.splice(0, TOGETHER);
    try {
      const {tags} = await ask("/api/tags", {source, places: some.map(placeOf)});
      some.forEach((tile, n) => fillTags(tile, tags[n]));
    } catch (error) { say(error.message, true); wanted = []; }
  }
  fetching = false;
}
const inSight = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { inSight.unobserve(entry.target); wanted.push(entry.target); }
  fetchTags();
}, {rootMargin: "300px"});
const watchTiles = () => { roam(); all(".grid:not([data-no-tags]) .tile").forEach(tile => inSight.observe(tile)); };

// --- answers

function showState(state) {
  byId("save").hidden = !state.waiting;
  byId("undo").hidden = !state.can_undo;
  byId("waiting").textContent = state.waiting;
  if (state.trouble) say(`answers are not saved: ${state.trouble}`, true);
}

function markAnswer(place, label, word) {
  const same = element => JSON.stringify(placeOf(element)) === JSON.stringify(place);
  tiles().filter(tile => labelOf(tile) === label && same(tile)).forEach(tile => { tile.dataset.answer = word; });
  const picture = document.querySelector("article.picture");
  if (!picture || !same(picture)) return;
  const row = all(".scores li", picture).find(item => item.dataset.label === label);
  if (!row) return;
  row.dataset.answer = word;
  all(".answers button", row).forEach(button => button.setAttribute("aria-pressed", String(WORDS.get(button.dataset.value) === word)));
}

const answer = trying(async (element, label, value) => {
  const state = await ask("/api/answer", {...placeOf(element), label, value: JSON.parse(value)});
  markAnswer(placeOf(element), label, WORDS.get(value));
  showState(state);
  say(`${label}: ${WORDS.get(value)}`);
});

const undo = trying(async () => {
  const state = await ask("/api/undo", {});
  showState(state);
  if (!state.undone) { say("nothing to undo"); return; }
  const {label, value, held, ...place} = state.undone, word = held ? WORDS.get(String(value)) : "";
  markAnswer(place, label, word);
  say(`${label}: ${word ? `${word} again` : "no answer again"}`);
});

const save = trying(async () => {
  const state = await ask("/api/save", {});
  showState(state);
  say(`${state.saved} answers saved`);
});

// --- one picture

const open = trying(async tile => {
  const found = await part(tile.querySelector(".open").getAttribute("href"));
  opened = tile;
  const close = Object.assign(document.createElement("button"), {type: "button", className: "close", textContent: "Close"});
  close.addEventListener("click", () => viewer.close());
  viewer.replaceChildren(close, ...found.childNodes);
  if (!viewer.open) viewer.showModal();
  const rows = all(".scores li", viewer);
  (rows.find(row => "first" in row.dataset) || rows[0] || close).focus();
});

viewer.addEventListener("close", () => { viewer.replaceChildren(); if (opened) focusTile(opened); opened = null; });

const similar = trying(async picture => {
  const job = await ask("/api/search", {like: placeOf(picture), source});
  location.href = (await finished(job, say)).to;
});

const look = trying(async (picture, row) => {
  const image = picture.querySelector("#large"), says = picture.querySelector("#look-says");
  const tell = text => { says.textContent = text; };
  try {
    const job = await ask("/api/look", {...placeOf(picture), label: row.dataset.label, source: picture.dataset.source});
    const found = await finished(job, text => tell(`${text} …`));
    image.dataset.plain = image.dataset.plain || image.getAttribute("src");
    image.src = found.image;
    picture.querySelector("#plain").hidden = false;
    tell(`Bright: where the model looked for ${row.querySelector(".name bdi").textContent}, on what it saw of the picture.`);
  } catch (error) { tell(""); throw error; }
});

document.addEventListener("click", event => {
  const target = event.target.closest("button, a.open");
  if (!target) return;
  const picture = target.closest("article.picture"), row = target.closest(".scores li");
  if (target.matches("a.open") && !event.ctrlKey && !event.metaKey && !event.shiftKey) { event.preventDefault(); open(target.closest(".tile")); }
  else if (row && target.matches(".answers button")) answer(picture, row.dataset.label, target.dataset.value);
  else if (row && target.matches(".look")) look(picture, row);
  else if (target.id === "similar") similar(picture);
  else if (target.id === "plain") { const image = picture.querySelector("#large"); image.src = image.dataset.plain; target.hidden = true; picture.querySelector("#look-says").textContent = ""; }
  else if (target.matches(".example")) { byId("sql").value = target.textContent; byId("sql").focus(); }
});

// --- keys

function roamPicture(event, picture) {
  const rows = all(".scores li", picture), at = rows.indexOf(document.activeElement.closest(".scores li"));
  const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
  if (step && rows.length) {
    const next = rows[Math.min(Math.max(at + step, 0), rows.length - 1)];
    rows.forEach(row => { row.tabIndex = row === next ? 0 : -1; });
    next.focus();
    return true;
  }
  const beside = opened && {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (beside) {
    const list = tiles(), next = list[list.indexOf(opened) + beside];
    if (next) open(next);
    return true;
  }
  if (event.key in KEYS && at >= 0) { answer(picture, rows[at].dataset.label, KEYS[event.key]); return true; }
  return false;
}

function roamGrid(event) {
  const tile = document.activeElement.closest(".tile");
  if (event.key.startsWith("Arrow")) {
    if (!tile && document.activeElement !== document.body && document.activeElement !== byId("main")) return false;
    const next = tile ? neighbour(tile, event.key) : tiles()[0];
    if (next) focusTile(next);
    return Boolean(next);
  }
  if (tile && event.key in KEYS) {
    if (labelOf(tile)) answer(tile, labelOf(tile), KEYS[event.key]);
    else say("Choose a label in the filters to answer here, or open the picture.");
    return true;
  }
  return false;
}

const COMMANDS = {
  "/": () => byId("q").focus(), "?": () => byId("keys").showModal(), z: undo, s: save,
  "]": () => byId("next") && byId("next").click(), "[": () => history.back(),
};

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
  const typing = document.activeElement.matches("input, textarea, select");
  if (typing) { if (event.key === "Escape") document.activeElement.blur(); return; }
  const picture = viewer.open ? viewer.querySelector("article.picture") : document.querySelector("main article.picture");
  const command = viewer.open && "/?[]".includes(event.key) ? null : COMMANDS[event.key];
  const done = command ? (command(), true) : picture ? roamPicture(event, picture) : roamGrid(event);
  if (done) event.preventDefault();
});

// --- search, export, SQL

byId("search").addEventListener("submit", trying(async event => {
  event.preventDefault();
  const text = byId("q").value.trim();
  if (!text) return;
  location.href = (await finished(await ask("/api/search", {text, source}), say)).to;
}));
byId("upload").addEventListener("change", trying(async event => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) location.href = (await finished(await ask("/api/search-picture", file), say)).to;
}));

function wireExport(form) {
  form.addEventListener("submit", trying(async event => {
    event.preventDefault();
    const button = form.querySelector("button"), tell = text => { byId("export-says").textContent = text; };
    button.disabled = true;
    try {
      const job = await ask("/api/export", {sql: byId("export-sql").value, to: byId("export-to").value, source: form.dataset.source});
      tell((await finished(job, tell)).lines.join("\n"));
    } catch (error) { tell(error.message); throw error; } finally { button.disabled = false; }
  }));
}

function wireSql(form) {
  const run = trying(async () => {
    byId("sql-error").textContent = "";
    try {
      location.href = (await ask("/api/sql", {sql: byId("sql").value, source: byId("sql-source").value})).to;
    } catch (error) { byId("sql-error").textContent = error.message; }
  });
  form.addEventListener("submit", event => { event.preventDefault(); run(); });
  byId("sql").addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run(); });
}

// --- thresholds

function wireSlider(slider) {
  const bins = slider.dataset.bins.split(",").map(Number), steps = Number(slider.dataset.steps);
  const own = Number(slider.dataset.threshold), tagged = Number(slider.dataset.tagged), {label} = slider.dataset;
  const above = new Array(bins.length + 1).fill(0);  // pictures with a score in this step or a higher one
  for (let bin = bins.length - 1; bin >= 0; bin--) above[bin] = above[bin + 1] + bins[bin];
  const input = byId("threshold"), bars = all(".histogram rect", slider);
  let later = 0, asked = 0;
  const number = value => value.toLocaleString("en");
  const isOwn = () => Math.abs(Number(input.value) - own) < 0.5 / steps;
  const threshold = () => isOwn() ? own : Number(input.value);
  function draw() {
    const at = threshold(), count = isOwn() ? tagged : above[Math.round(at * steps)], change = count - tagged;
    byId("at").textContent = at.toFixed(3);
    byId("would").textContent = number(count);
    byId("change").textContent = isOwn() ? "as now" : `${change > 0 ? "+" : change < 0 ? "−" : "±"}${number(Math.abs(change))} (now ${number(tagged)} at ${own.toFixed(3)})`;
    byId("tried").setAttribute("x1", 1000 * at);
    byId("tried").setAttribute("x2", 1000 * at);
    bars.forEach(bar => bar.classList.toggle("on", Number(bar.dataset.start) + 0.5 / bars.length >= at));
    byId("show").search = new URLSearchParams({...(source && {source}), label, low: at}).toString();
  }
  const fetchEdge = trying(async () => {
    const mine = ++asked;
    const found = await part(`/edge?${new URLSearchParams({label, at: threshold(), ...(source && {source})})}`);
    if (mine !== asked) return;
    byId("edge").replaceChildren(...found.childNodes);
    byId("edge").setAttribute("aria-busy", "false");
    watchTiles();
  });
  input.addEventListener("input", () => { draw(); byId("edge").setAttribute("aria-busy", "true"); clearTimeout(later); later = setTimeout(fetchEdge, 180); });
  byId("reset").addEventListener("click", () => { input.value = own; draw(); fetchEdge(); });
  draw();
}

const fillCounts = trying(async table => {
  const {counts} = await ask(table.dataset.counts);
  all("tbody tr", table).forEach(row => { row.querySelector(".count").textContent = (counts[row.dataset.label] || 0).toLocaleString("en"); });
});

// --- beginning

byId("undo").addEventListener("click", undo);
byId("save").addEventListener("click", save);
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("refresh").addEventListener("click", trying(async () => { await ask("/api/refresh", {}); location.reload(); }));
all(".filters select, .inline select").forEach(select => select.addEventListener("change", () => select.form.requestSubmit()));
if (byId("filters")) byId("filters").addEventListener("submit", event => {  // short addresses: without empty fields
  all("input, select", event.target).forEach(field => { field.disabled = !field.value; });
});
addEventListener("pageshow", () => all("#filters :disabled").forEach(field => { field.disabled = false; }));
if (matchMedia("(max-width: 56rem)").matches) all("details.filters").forEach(details => { details.open = false; });
if (byId("comparing")) trying(async () => {
  const {job} = byId("comparing").dataset;
  await finished({job, ...await ask(`/api/jobs/${job}`)}, text => { byId("comparing").textContent = `${text} …`; });
  location.reload();
})();
if (byId("export-form")) wireExport(byId("export-form"));
if (byId("sql-form")) wireSql(byId("sql-form"));
if (byId("slider")) wireSlider(byId("slider"));
if (byId("labels")) {
  fillCounts(byId("labels"));
  byId("find-label").addEventListener("input", event => {
    const text = event.target.value.toLowerCase();
    all("#labels tbody tr").forEach(row => { row.hidden = !row.textContent.toLowerCase().includes(text); });
  });
}
trying(async () => showState(await ask("/api/state")))();
setInterval(() => { if (!byId("save").hidden) trying(async () => showState(await ask("/api/state")))(); }, 5000);
watchTiles();
