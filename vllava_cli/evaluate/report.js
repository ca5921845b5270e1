
"use strict";
const main = document.getElementById("clips");
const [controls, count, none, help] = ["controls", "count", "none", "help"].map((id) => document.getElementById(id));
const value = (id) => document.getElementById(id)?.value ?? "";
const clips = [...main.children].map((element, place) => ({
  element,
  place,
  path: element.querySelector("h2").textContent,
  rows: [...element.querySelectorAll(".row")].map((row) => ({
    element: row,
    verdict: row.dataset.v,
    kind: row.dataset.k,
    answer: row.dataset.a,
    groups: row.dataset.g.split(" "),
    confidence: row.dataset.p === "" ? null : Number(row.dataset.p),
    isShown: true,
  })),
}));
const total = clips.reduce((sum, clip) => sum + clip.rows.length, 0);
const collator = new Intl.Collator(undefined, { numeric: true });

/* The text of a row is read when it is first searched in. */
function textOf(clip, row) {
  row.text ??= `${clip.path}\n${row.element.textContent}`.toLowerCase();
  return row.text;
}

function show() {
  const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
  const [verdict, kind] = value("verdict").split(" ");
  const [answer, group] = [value("answer"), value("group")];
  const seen = { rows: 0, clips: 0, right: 0, known: 0 };
  for (const clip of clips) {
    let shown = 0;
    for (const row of clip.rows) {
      row.isShown =
        (!verdict || row.verdict === verdict) &&
        (!kind || row.kind === kind) &&
        (!answer || row.answer === answer) &&
        (!group || row.groups.includes(group)) &&
        words.every((word) => textOf(clip, row).includes(word));
      row.element.hidden = !row.isShown;
      shown += row.isShown;
      seen.right += row.isShown && row.verdict === "right";
      seen.known += row.isShown && ["right", "wrong", "differs"].includes(row.verdict);
    }
    clip.element.hidden = !shown;
    seen.rows += shown;
    seen.clips += Boolean(shown);
  }
  const right = seen.known ? `, ${seen.right.toLocaleString("en")} of ${seen.known.toLocaleString("en")} right` : "";
  count.textContent =
    `${seen.rows.toLocaleString("en")} of ${total.toLocaleString("en")} answers, ` +
    `${seen.clips.toLocaleString("en")} of ${clips.length.toLocaleString("en")} clips${right}`;
  none.hidden = seen.rows > 0;
}

const confidences = (clip) => clip.rows.filter((row) => row.isShown && row.confidence !== null).map((row) => row.confidence);
const lowest = (clip) => Math.min(2, ...confidences(clip));
const highest = (clip) => Math.max(-1, ...confidences(clip));
const firstAnswer = (clip) => clip.rows.find((row) => row.isShown)?.element.querySelector(".answer")?.textContent ?? "\uffff";
const wrongs = (clip) => clip.rows.filter((row) => row.isShown && ["wrong", "differs"].includes(row.verdict)).length;
const orders = {
  order: () => 0,
  path: (one, other) => collator.compare(one.path, other.path),
  unsure: (one, other) => lowest(one) - lowest(other),
  sure: (one, other) => highest(other) - highest(one),
  answer: (one, other) => collator.compare(firstAnswer(one), firstAnswer(other)),
  wrong: (one, other) => wrongs(other) - wrongs(one),
};
let order = "order";

function sort() {
  const wished = value("sort");
  if (wished === "order" && order === "order") return;
  order = wished;
  const compare = orders[order];
  clips.sort((one, other) => compare(one, other) || one.place - other.place);
  main.append(...clips.map((clip) => clip.element));
}

function update() {
  show();
  sort();
}

function step(by) {
  const rows = clips.flatMap((clip) => clip.rows.filter((row) => row.isShown));
  const here = rows.findIndex((row) => row.element === document.activeElement);
  const next = rows[here < 0 ? (by > 0 ? 0 : rows.length - 1) : here + by];
  if (!next) return;
  next.element.tabIndex = -1;
  next.element.focus();
  next.element.scrollIntoView({ block: "nearest" });
}

const actions = {
  j: () => step(1),
  k: () => step(-1),
  "/": () => document.getElementById("search").focus(),
  "?": () => help.showModal(),
};

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, select");
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (isTyping || help.open || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(actions, event.key)) return;
  event.preventDefault();
  actions[event.key]();
});
let timer = 0;
controls.addEventListener("input", (event) => {
  clearTimeout(timer);
  timer = setTimeout(update, event.target.id === "search" ? 120 : 0);
});
controls.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("keys").addEventListener("click", () => help.showModal());
controls.hidden = false;
update();
