"use strict";
// Texts of models and people enter the page only as textContent, so that none of them is parsed as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.documentElement;
const byId = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function clipped(text, most) {
  return text.length > most ? text.slice(0, most) + "…" : text;
}

// ---- charts

const colour = (name) => getComputedStyle(page).getPropertyValue(name).trim();
let drawn = [];

// Bands of rubric versions behind the lines, alarms on top of the frame.
function bands(chart, spec) {
  const { ctx, bbox } = chart;
  const at = (x) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, chart.valToPos(x, "x", true)));
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, "DejaVu Sans", sans-serif`;
  (spec.bands || []).forEach((band, place) => {
    const next = spec.bands[place + 1];
    const from = place ? at(band.from) : bbox.left;
    const to = next ? at(next.from) : bbox.left + bbox.width;
    if (place % 2) {
      ctx.fillStyle = colour("--tint");
      ctx.fillRect(from, bbox.top, to - from, bbox.height);
    }
    ctx.fillStyle = colour("--dim");
    if (to - from > ctx.measureText(band.label).width) {
      ctx.fillText(band.label, from + 2, bbox.top - 5 * devicePixelRatio);
    }
  });
  if (spec.zero) {
    ctx.fillStyle = colour("--dim");
    ctx.fillRect(bbox.left, chart.valToPos(0, "y", true), bbox.width, 1);
  }
  ctx.restore();
}

function marks(chart, spec) {
  const { ctx, bbox } = chart;
  const size = 5 * devicePixelRatio;
  ctx.save();
  ctx.fillStyle = colour("--bad");
  for (const mark of spec.marks || []) {
    const x = chart.valToPos(mark, "x", true);
    ctx.beginPath();
    ctx.moveTo(x - size, bbox.top + bbox.height);
    ctx.lineTo(x + size, bbox.top + bbox.height);
    ctx.lineTo(x, bbox.top + bbox.height - 2 * size);
    ctx.fill();
  }
  ctx.restore();
}

function draw(element) {
  const spec = data.charts[element.dataset.chart];
  const small = element.classList.contains("small");
  const last = Math.max(1, spec.x[spec.x.length - 1]);
  const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, size: 44 };
  const single = spec.lines.length === 1;
  const chart = new uPlot({
    width: element.clientWidth,
    height: small ? 44 : element.closest("figure") ? 170 : 320,
    padding: small ? [3, 3, 3, 3] : [spec.bands ? 22 : 12, 12, 0, 0],
    legend: { show: !single },
    cursor: { show: !small, y: false },
    select: { show: false },
    scales: {
      x: { time: false, range: [0, last] },
      y: spec.unit ? { range: [0, 1.02] } : {},
    },
    axes: small
      ? [{ show: false }, { show: false }]
      : [{ ...axis, size: 30, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick : "")) }, axis],
    series: [
      { label: "batch", value: (_, batch) => (batch == null ? "–" : Math.floor(batch)) },
      ...spec.lines.map((line) => ({
        label: line.label,
        stroke: colour(`--c${line.colour}`),
        width: line.dots ? 1.5 : 2,
        dash: line.colour === 2 && line.dots ? [6, 4] : undefined,
        spanGaps: line.dots,
        points: { show: line.dots && !small, size: 6 },
        value: (_, value) => (value == null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 3 })),
      })),
    ],
    hooks: { drawClear: [(own) => bands(own, spec)], draw: [(own) => marks(own, spec)] },
  }, [spec.x, ...spec.lines.map((line) => line.y)], element);
  drawn.push([chart, element]);
}

function drawAll() {
  drawn.forEach(([chart]) => chart.destroy());
  drawn = [];
  document.querySelectorAll("[data-chart]").forEach(draw);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // a phone changes the height whenever its bars appear
  width = innerWidth;
  drawn.forEach(([chart, element]) => chart.setSize({ width: element.clientWidth, height: chart.height }));
});
drawAll();

// ---- the same prompt over time

function showTime(place) {
  byId("time-answers").replaceChildren(...data.over_time[place].answers.map((answer) => {
    const card = make("div", "card");
    const head = make("div", "head");
    head.append(make("span", "score", answer.gold == null ? "" : `gold ${answer.gold.toFixed(2)}`));
    head.append(make("span", "dim", answer.batch ? `after batch ${answer.batch}` : "before training"));
    const text = make("div", "text", answer.completion);
    text.dir = "auto";
    card.append(head, text);
    return card;
  }));
}

if (data.over_time && data.over_time.length) {
  const select = byId("time-prompt");
  data.over_time.forEach((one, place) => select.append(new Option(clipped(one.prompt, 90), place)));
  select.addEventListener("change", () => showTime(select.value));
  showTime(0);
}

// ---- samples

const FIRST = 12;
let shown = FIRST;

function card(row) {
  const element = make("article", "card");
  const head = make("div", "head");
  const by = { judge: "", rule: "by a rule", verifier: "by the verifier", probe: "shown to the meta-judge as a probe" };
  head.append(make("span", "score", row.reward == null ? "no score" : row.reward.toFixed(3)));
  head.append(make("span", "dim", `batch ${row.batch}` + (row.version < 0 ? "" : ` · rubric v${row.version}`) + ` · ${row.id}`));
  const how = by[row.by] === undefined ? `not judged: ${row.by}` : by[row.by];
  for (const said of [how, row.cluster]) if (said) head.append(make("span", "dim", said));
  for (const alarm of row.alarms) head.append(make("span", "tag dropped", alarm.replaceAll("_", " ")));
  if (row.cited) head.append(make("span", "tag", "shown to the meta-judge"));
  const prompt = make("div", "text prompt", data.samples.prompts[row.prompt]);
  const completion = make("div", "text", row.completion);
  prompt.dir = completion.dir = "auto";
  const same = make("button", "link", "same prompt");
  same.type = "button";
  same.addEventListener("click", () => only({ prompt: row.prompt }));
  head.append(same);
  const levels = make("dl");
  for (const [name, level, top, reason] of row.levels) {
    levels.append(make("dt", "", `${name} ${level}` + (top == null ? "" : ` of ${top}`)));
    const said = make("dd", "", reason);
    said.dir = "auto";
    levels.append(said);
  }
  element.append(head, prompt, completion, levels);
  return element;
}

function found(form) {
  const number = (name) => (form[name].value === "" ? null : Number(form[name].value));
  const [from, to, low, high] = ["from", "to", "low", "high"].map(number);
  const text = form.text.value.toLowerCase();
  const rows = data.samples.rows.filter((row) =>
    (from === null || row.batch >= from) && (to === null || row.batch <= to) &&
    (low === null || (row.reward != null && row.reward >= low)) &&
    (high === null || (row.reward != null && row.reward <= high)) &&
    (form.version.value === "" || String(row.version) === form.version.value) &&
    (form.alarm.value === "" || row.alarms.includes(form.alarm.value)) &&
    (form.prompt.value === "" || String(row.prompt) === form.prompt.value) &&
    (!form.id || row.id === form.id) &&
    (!text || row.completion.toLowerCase().includes(text) || data.samples.prompts[row.prompt].toLowerCase().includes(text)));
  const order = form.order.value;
  if (order !== "batch") {
    // Answers without a score come last in both orders.
    const score = (row) => (row.reward == null ? Infinity : order === "low" ? row.reward : -row.reward);
    rows.sort((one, other) => score(one) - score(other));
  }
  return rows;
}

const form = byId("filters");
let onlyId = null;

function show() {
  const fields = Object.fromEntries([...form.elements].filter((one) => one.name).map((one) => [one.name, one]));
  const rows = found({ ...fields, id: onlyId });
  const whole = data.samples.of > data.samples.rows.length
    ? ` This page contains ${data.samples.rows.length.toLocaleString("en")} of the run's ${data.samples.of.toLocaleString("en")} answers; all of them are in rollouts.jsonl.`
    : "";
  byId("found").textContent = `${rows.length.toLocaleString("en")} found${onlyId ? ` (${onlyId})` : ""}.${whole}`;
  byId("cards").replaceChildren(...rows.slice(0, shown).map(card));
  byId("more").hidden = rows.length <= shown;
}

function only(values, id = null) {
  form.reset();
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  refresh(id);
  byId("samples").scrollIntoView();
}

function refresh(id = null) {
  onlyId = id;
  shown = FIRST;
  show();
}

if (form) {
  const distinct = (values) => [...new Set(values)];
  for (const version of distinct(data.samples.rows.map((row) => row.version)).filter((one) => one >= 0).sort((a, b) => a - b)) {
    form.elements.version.append(new Option(`v${version}`, version));
  }
  for (const alarm of distinct(data.samples.rows.flatMap((row) => row.alarms)).sort()) {
    form.elements.alarm.append(new Option(alarm.replaceAll("_", " "), alarm));
  }
  data.samples.prompts.forEach((prompt, place) => form.elements.prompt.append(new Option(clipped(prompt, 70), place)));
  form.addEventListener("input", () => refresh());
  // Only for selects: a text field fires "change" when it loses focus, which would replace the cards under a click.
  form.querySelectorAll("select").forEach((select) => select.addEventListener("change", () => refresh()));
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("all").addEventListener("click", () => only({}));
  byId("more").addEventListener("click", () => { shown += 24; show(); });
  document.querySelectorAll("[data-sample]").forEach((link) =>
    link.addEventListener("click", () => only({}, link.dataset.sample)));
  document.querySelectorAll("[data-alarm]").forEach((link) =>
    link.addEventListener("click", () => only({ alarm: link.dataset.alarm })));
  show();
}
