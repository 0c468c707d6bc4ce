import { Sliders, element } from "./sliders.js";

const $ = (id) => document.getElementById(id);
const MOST_ROWS = 80;
const MOVES = "moves tokens by: at its strongest place, in the mean over steps, as a share of what a token holds beyond the linear baseline";
const sites = new Set();
let known = null;        // of the run
let latents = [];        // those listed: {site, latent, reach, when} of an image, {site, latent, told} of a search
let working = false;
let waiting = false;     // a slider moved while something was drawn
let drawn = null;        // what the images were made of

const sliders = new Sliders($("edits"), () => {
  $("no-edits").hidden = sliders.rows.size > 0;
  list();
  if (drawn !== null) steer();
});

async function ask(path, request) {
  const options = request === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request),
  };
  let answer;
  try {
    answer = await (await fetch(path, options)).json();
    while ("busy" in answer && request !== undefined) { // with what a page asked for that was reloaded, or is open elsewhere
      await new Promise((wake) => { setTimeout(wake, 300); });
      answer = await (await fetch(path, options)).json();
    }
  } catch {
    throw new Error("The server does not answer. Is `tide play` still running?");
  }
  if ("error" in answer) throw new Error(answer.error);
  return answer;
}

function settings() {
  return {
    prompt: $("prompt").value, seed: Number($("seed").value), steps: Number($("steps").value),
    guidance_scale: Number($("guidance").value),
  };
}

// One thing at a time: buttons wait, and progress is asked for meanwhile.
async function work(doing, done, action) {
  if (working) return;
  $("changed").replaceChildren();
  working = true;
  for (const button of [$("go"), $("steer"), ...$("find").querySelectorAll("button")]) button.disabled = true;
  $("error").textContent = "";
  $("status").textContent = doing;
  $("bar").removeAttribute("value");
  const polling = setInterval(async () => {
    const now = await ask("/api/progress").catch(() => null);
    if (working && now?.of) {
      $("bar").value = now.done / now.of;
      const left = now.left >= 2 ? `, ${Math.round(now.left)} s left` : "";
      $("status").textContent = `${now.doing}: step ${now.done} of ${now.of}${left}`;
    }
  }, 400);
  try {
    await action();
    $("status").textContent = done();
  } catch (error) {
    $("error").textContent = error.message;
    $("status").textContent = "";
  } finally {
    clearInterval(polling);
    working = false;
    $("bar").value = 0;
    for (const button of [$("go"), $("steer"), ...$("find").querySelectorAll("button")]) button.disabled = false;
  }
  if (waiting) {
    waiting = false;
    steer();
  }
}

function show(id, source, text) {
  $(id).src = source;
  $(id).alt = text;
}

function draw() {
  return work("Drawing …", () => "Drawn. Add a latent of the list, or search for one by a word.", async () => {
    const request = settings();
    const answer = await ask("/api/draw", request);
    drawn = request;
    show("before", answer.image, `Image of: ${request.prompt || "no prompt"}`);
    latents = answer.active;
    list();
    if (sliders.rows.size) waiting = true;
  });
}

function steer() {
  if (working) {
    waiting = true;
    return undefined;
  }
  const edits = sliders.edits();
  if (!edits.length) {
    $("status").textContent = "Nothing to steer: add a latent first.";
    return undefined;
  }
  let changed = [];
  return work("Steering …", () => "Steered.", async () => {
    const request = {
      ...settings(), edits, low: Number($("low").value), high: Number($("high").value),
      half: $("half").value, where: $("where").value,
    };
    const answer = await ask("/api/steer", request);
    drawn = request;
    sliders.tell(answer.edits);
    changed = answer.changed;
    show("before", answer.before, `Image of: ${request.prompt || "no prompt"}`);
    show("after", answer.after, `The same, with ${edits.map((e) => `${e.site}/${e.latent}`).join(", ")} steered`);
    show("difference", answer.difference, "Bright where the two images differ");
    const came = edits.map((edit, place) => ({ ...edit, amount: answer.edits[place].amount }));
    remember({ ...request, edits: came });
    command({ ...request, edits: came });
  }).then(() => $("changed").replaceChildren(...changed.map((line) => element("li", {}, line[0].toUpperCase() + line.slice(1) + "."))));
}

const quoted = (words) => (/^[\w./:,+-]+$/.test(words) ? words : `'${words.replaceAll("'", "'\\''")}'`);

// What makes the same picture in a terminal.
function command({ prompt, seed, steps, guidance_scale: guidance, edits, low, high, half, where }) {
  const latents = edits.map(({ site, latent, operation, amount }) =>
    `${site}/${latent}:${operation}${["add", "scale", "clamp"].includes(operation) ? `:${Number(amount.toFixed(3))}` : ""}`);
  const told = ["tide steer", quoted(known.run), "--prompt", quoted(prompt), "--latent", quoted(latents.join(",")), "--seed", seed];
  if (steps !== 20) told.push("--steps", steps);
  if (guidance !== known.guidance_scale) told.push("--guidance_scale", guidance);
  if (low > 0 || high < 1) told.push("--window", `${low},${high}`);
  if (known.guided && half !== "conditional") told.push("--half", half);
  if (where === "all") told.push("--region all");
  $("command").textContent = told.join(" ");
  $("command-title").hidden = false;
}

// The address names what is shown, so that it can be kept and passed on.
function remember({ prompt, seed, edits }) {
  const told = new URLSearchParams({ prompt, seed });
  for (const { site, latent, operation, amount } of edits) {
    if (operation === "add") told.append("latent", `${site}/${latent}:${amount.toFixed(2)}`);
  }
  if (prompt.length < 1000) history.replaceState(null, "", `#${told}`);
}

async function recall() {
  const told = new URLSearchParams(location.hash.slice(1));
  if (!told.has("prompt")) {
    await draw();
    return;
  }
  $("prompt").value = told.get("prompt");
  if (/^\d{1,9}$/.test(told.get("seed") ?? "")) $("seed").value = told.get("seed");
  await draw();
  for (const latent of told.getAll("latent").slice(0, 16)) {
    const [, site, number, amount] = /^(.+)\/(\d{1,9}):(-?[\d.]{1,12})$/.exec(latent) ?? [];
    if (sites.has(site)) sliders.add({ site, latent: Number(number), amount });
  }
}

function find() {
  const query = $("find-words").value.trim();
  return work("Searching for latents that make it; this takes some images' time.", () => `${latents.length} latents found.`,
    async () => {
      const answer = await ask("/api/find", { query });
      latents = answer.found;
      $("filter").value = "";
      list(`Latents that fire for “${query}”, the best first. Told from others: the chance that one fires higher with it than with something else in its place`);
    });
}

function curve(values) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const last = Math.max(1, values.length - 1);
  line.setAttribute("points", values.map((value, step) => `${(100 * step) / last},${28 - 26 * value}`).join(" "));
  line.setAttribute("fill", "none");
  line.setAttribute("stroke", "currentColor");
  line.setAttribute("stroke-width", "2.5");
  svg.append(line);
  return svg;
}

function about(entry) {
  const named = entry.name === undefined ? "" : `tells ${entry.tells.toFixed(2)}, `;
  if (entry.when === undefined) return `${named}told from others ${entry.told.toFixed(2)}`;
  const step = entry.when.indexOf(Math.max(...entry.when)) + 1;
  return `${named}moves tokens by ${Number((100 * entry.reach).toPrecision(2))} %, most at step ${step} of ${entry.when.length}`;
}

function list(title) {
  const wanted = $("filter").value.trim().toLowerCase();
  const found = latents.filter(({ site, latent, name = "" }) => `${name} ${site}/${latent}`.toLowerCase().includes(wanted));
  if (title !== undefined) $("listed").dataset.title = title;
  const what = $("listed").dataset.title ?? (known?.named
    ? `Latents active in this image, one of each name first. Tells: how surely its name tells its images, .5 is luck; ${MOVES}`
    : `Latents active in this image, the strongest first; ${MOVES}. tide atlas ${known?.run} gives them names`);
  if (latents.length) $("listed").textContent = `${what}: ${found.length}`;
  $("latents").replaceChildren(...found.slice(0, MOST_ROWS).map((entry) => {
    const name = `${entry.site}/${entry.latent}`;
    const add = element("button", { type: "button", ariaLabel: `Add ${name}` }, "Add");
    add.disabled = sliders.has(entry.site, entry.latent);
    add.addEventListener("click", () => sliders.add(entry));
    const label = entry.name === undefined
      ? element("span", { className: "name" }, name, element("small", {}, about(entry)))
      : element("span", { className: "name", dir: "auto" }, element("strong", {}, entry.name), element("small", {}, `${name}: ${about(entry)}`));
    return element("li", {}, label, ...(entry.when ? [curve(entry.when)] : []), add);
  }));
}

$("draw").addEventListener("submit", (event) => { event.preventDefault(); delete $("listed").dataset.title; draw(); });
$("find").addEventListener("submit", (event) => { event.preventDefault(); find(); });
$("steer").addEventListener("click", () => steer());
$("clear").addEventListener("click", () => { sliders.clear(); });
$("filter").addEventListener("input", () => list());
$("another").addEventListener("click", () => {
  $("seed").value = Math.floor(Math.random() * 100000);
  draw();
});
for (const [id, other, hold] of [["low", "high", Math.max], ["high", "low", Math.min]]) {
  $(id).addEventListener("input", () => {
    $(other).value = hold(Number($(other).value), Number($(id).value));
    for (const name of ["low", "high"]) $(name).parentElement.querySelector("output").textContent = $(name).value;
  });
  $(id).addEventListener("change", () => { if (sliders.rows.size) steer(); });
}
for (const id of ["half", "where"]) $(id).addEventListener("change", () => { if (sliders.rows.size) steer(); });

try {
  known = await ask("/api/about");
  $("run").textContent = `Run: ${known.run}`;
  $("steps").value = known.steps;
  $("guidance").value = known.guidance_scale;
  for (const site of known.sites) sites.add(site);
  $("prompt").value = known.examples[0] ?? "";
  for (const prompt of known.examples) {
    const chip = element("button", { type: "button", title: prompt, dir: "auto" }, prompt);
    chip.addEventListener("click", () => { $("prompt").value = prompt; draw(); });
    $("examples").append(chip);
  }
  if (!known.guided) {
    $("half").value = "both";
    $("half-label").hidden = true;
  }
  await recall();
} catch (error) {
  $("error").textContent = error.message;
}
