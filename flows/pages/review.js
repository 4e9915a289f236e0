"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const KEPT = "clipdecoder-review-" + data.page;
const WORDS = new Map([[1, "yes"], [0, "no"], [null, "unsure"]]);
const MAX_DOTS = 200;  // more tell nothing
let answers = {};  // number of a task -> [value, time]
let unsaved = {};  // numbers of the tasks whose answers are in no file
let kept = true;  // whether the browser keeps answers
let shown = [];  // numbers of the tasks that the filter leaves
let at = 0;  // place in `shown`; its length: the end

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT)) || {};
    answers = found.answers || {};
    unsaved = found.unsaved || {};
  } catch {
    kept = false;
  }
}

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify({answers, unsaved}));
    kept = true;
  } catch {
    kept = false;
  }
}

const answered = numbers => numbers.filter(number => number in answers).length;
const label = () => data.labels[data.tasks[shown[at]].label];
const say = text => { byId("said").textContent = text; };
const percent = share => `${(100 * share).toFixed(1)}%`;

function choose(value) {
  shown = data.tasks.map((_, number) => number).filter(number => value === "" || data.tasks[number].label === Number(value));
  const open = shown.findIndex(number => !(number in answers));
  at = open < 0 ? shown.length : open;
}

function makeFilter() {
  const option = (_, value) => Object.assign(document.createElement("option"), {value});
  byId("filter").replaceChildren(option(null, ""), ...data.labels.map(option));
}

function fillFilter() {
  const total = data.labels.map(() => 0), done = data.labels.map(() => 0);
  data.tasks.forEach((task, number) => { total[task.label] += 1; done[task.label] += number in answers; });
  const [all, ...options] = byId("filter").options;
  all.textContent = `all labels (${Object.keys(answers).length} of ${data.tasks.length})`;
  options.forEach((option, place) => { option.textContent = `${data.labels[place].name} (${done[place]} of ${total[place]})`; });
}

function draw() {
  const done = answered(shown);
  byId("bar").max = shown.length;
  byId("bar").value = done;
  byId("count").textContent = `${done} of ${shown.length} answered`;
  const ended = at >= shown.length, justEnded = ended && byId("end").hidden;
  byId("task").hidden = ended;
  byId("end").hidden = !ended;
  if (ended) drawEnd();
  else drawTask();
  if (justEnded) byId("done").focus();
}

function drawTask() {
  const task = data.tasks[shown[at]], answer = answers[shown[at]];
  const picture = byId("picture");
  picture.src = data.pictures[task.picture];
  picture.alt = `picture ${task.shown}`;
  byId("where").replaceChildren(isolated(task.shown), ` in ${task.dataset}/${task.shard}`);
  byId("name").textContent = label().name;
  byId("description").textContent = label().description;
  byId("task").className = label().seen ? "seen" : "novel";
  for (const button of document.querySelectorAll(".answers button"))
    button.setAttribute("aria-pressed", String(Boolean(answer) && valueOf(button) === answer[0]));
  byId("back").disabled = at === 0;
  const own = shown.filter(number => data.tasks[number].label === task.label);
  byId("place").textContent = `${own.indexOf(shown[at]) + 1} of ${own.length}`;
  drawDots(own);
  const chip = Object.assign(document.createElement("span"), {className: "chip", textContent: label().seen ? "seen label" : "novel label"});
  const score = task.score === null ? "score too low to be kept" : `score ${task.score.toFixed(2)}, threshold ${task.threshold.toFixed(2)}`;
  byId("says").replaceChildren(score, " ", chip);
  byId("scored").style.width = percent(task.score || 0);
  byId("cut").style.left = percent(task.threshold);
  byId("why").textContent = task.why;
  const next = data.tasks[shown[at + 1]];
  if (next) new Image().src = data.pictures[next.picture];
}

function isolated(text) {
  return Object.assign(document.createElement("bdi"), {textContent: text});
}

function drawDots(own) {
  byId("dots").replaceChildren(...(own.length > MAX_DOTS ? [] : own).map(number => {
    const dot = document.createElement("i");
    if (number in answers) dot.classList.add(WORDS.get(answers[number][0]));
    if (number === shown[at]) dot.classList.add("here");
    return dot;
  }));
}

function drawEnd() {
  const left = shown.length - answered(shown), others = data.tasks.length - Object.keys(answers).length - left;
  const count = word => shown.filter(number => number in answers && WORDS.get(answers[number][0]) === word).length;
  const loose = Object.keys(unsaved).length;
  byId("done").textContent = left ? `${left} of ${shown.length} questions are open` : "Every question here is answered";
  byId("tally").textContent = `${count("yes")} yes, ${count("no")} no, ${count("unsure")} unsure.` +
    (others ? ` ${others} questions are open under other labels.` : "") + (loose ? ` Not in a file yet: ${loose} answers.` : "");
  byId("onward").hidden = !left && !others;
  byId("onward").textContent = left ? "Go to the open ones" : "Go on with other labels";
}

function tell(before) {
  const task = data.tasks[shown[at]];
  say(before + (task ? ` Question ${at + 1} of ${shown.length}: ${label().name}?` : ` ${byId("done").textContent}.`) +
    (kept ? "" : " This browser keeps no answers: save before you close the page."));
}

const valueOf = button => button.dataset.value === "" ? null : Number(button.dataset.value);

function answer(value) {
  if (at >= shown.length) return;
  answers[shown[at]] = [value, new Date().toISOString()];
  unsaved[shown[at]] = true;
  keep();
  const next = shown.findIndex((number, place) => place > at && !(number in answers));
  at = next < 0 ? shown.length : next;
  fillFilter();
  draw();
  tell(`Answered ${WORDS.get(value)}.`);
}

function move(step) {
  at = Math.min(Math.max(at + step, 0), shown.length);
  draw();
  tell("");
}

function onward() {
  if (answered(shown) === shown.length) byId("filter").value = "";
  choose(byId("filter").value);
  draw();
  tell("");
}

function save() {
  const given = Object.keys(answers).map(Number).sort((a, b) => a - b);
  if (!given.length) return say("Nothing is answered yet.");
  const rows = given.map(number => {
    const {dataset, shard, key, label} = data.tasks[number], [value, time] = answers[number];
    return {dataset, shard, key, label_id: data.labels[label].id, value, at: time};
  });
  const file = {format: data.format, version: data.version, model_id: data.model_id, answers: rows};
  const url = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1) + "\n"], {type: "application/json"}));
  const name = `answers-${data.page}.json`;
  Object.assign(document.createElement("a"), {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  unsaved = {};
  keep();
  if (at >= shown.length) drawEnd();
  say(`${rows.length} answers saved as ${name}.`);
}

const KEYS = {
  y: () => answer(1), n: () => answer(0), u: () => answer(null), s: save,
  ArrowLeft: () => move(-1), Backspace: () => move(-1), ArrowRight: () => move(1),
};

document.addEventListener("keydown", event => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const inList = event.target === byId("filter") && key.length > 1;  // arrows choose there
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || inList || !(key in KEYS)) return;
  event.preventDefault();
  KEYS[key]();
});
for (const button of document.querySelectorAll(".answers button")) button.addEventListener("click", () => answer(valueOf(button)));
const CLICKS = {back: () => move(-1), skip: () => move(1), again: () => move(-1), save, finish: save, onward};
for (const [id, work] of Object.entries(CLICKS)) byId(id).addEventListener("click", work);
byId("filter").addEventListener("change", () => { choose(byId("filter").value); draw(); tell(""); });
addEventListener("storage", event => { if (event.key === KEPT) { load(); fillFilter(); draw(); } });
addEventListener("beforeunload", event => { if (!kept && Object.keys(unsaved).length) event.preventDefault(); });

load();
makeFilter();
fillFilter();
choose("");
byId("app").hidden = false;
draw();
tell("");
