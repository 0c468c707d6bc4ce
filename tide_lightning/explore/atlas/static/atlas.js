// The atlas's page. Data come as scripts that call atlas.receive(name, value). Whatever stems from captions, prompts or
// labels is put on the page as text nodes only.
"use strict";

const CARDS_A_PAGE = 48;
const $ = (id) => document.getElementById(id);
const received = new Map();
const atlas = { receive: (name, value) => received.set(name, value) };
window.atlas = atlas;

let meta, samples;
const sites = new Map(); // site -> its entry of meta, with its index
let features = []; // {site, row}: every live latent of the sites loaded
let found = []; // those that pass the filters, in order
let page = 0;

// ---- data

function load(path, name) {
  if (received.has(name)) return Promise.resolve(received.get(name));
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = path;
    script.onload = () => { script.remove(); resolve(received.get(name)); };
    script.onerror = () => reject(new Error(`${path} is missing: the atlas's folder is not complete`));
    document.head.append(script);
  });
}

function details(site, row) {
  const number = Math.floor(row / meta.latentsEach);
  return load(`data/${site.folder}/${number}.js`, `${site.site} ${number}`).then((part) => part[row % meta.latentsEach]);
}

const trait = (number) => ({ factor: meta.traits[number][0], text: meta.traits[number][1], count: meta.traits[number][2] });
const traitName = (number) => { const { factor, text } = trait(number); return factor ? `${factor}: ${text}` : text; };
const link = (site, latent) => `#${encodeURIComponent(site.site)}/${latent}`;
const rowOf = (site, latent) => site.rows.get(latent);

// ---- elements

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const text = (words, tag = "span") => make(tag, { class: "text", dir: "auto" }, words);

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// One cell of a sheet of `across` x `down` cells, filling its element.
function cell(layer, url, across, down, column, row) {
  const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) : 0);
  layer.style.backgroundImage = `url("${url}")`;
  layer.style.backgroundSize = `${100 * across}% ${100 * down}%`;
  layer.style.backgroundPosition = `${share(column, across)}% ${share(row, down)}%`;
  return layer;
}

// A sample's image with the heat of a feature's `order`-th image at a bin; without a bin the image alone.
function tile(site, row, order, sample, bin) {
  const box = make("div", { class: bin === null ? "tile" : "tile heat" });
  if (sample < 0) return box;
  const sheet = Math.floor(sample / meta.thumbnail.each), place = sample % meta.thumbnail.each;
  box.append(cell(make("i"), `data/thumbnails-${sheet}.webp`, 8, meta.thumbnail.each / 8, place % 8, Math.floor(place / 8)));
  if (bin !== null && site.map[0] * site.map[1] > 1) {
    const number = Math.floor(row / meta.latentsEach);
    const latents = Math.min(meta.latentsEach, site.live - number * meta.latentsEach);
    const line = (row % meta.latentsEach) * site.tops + order;
    box.append(cell(make("i"), `data/${site.folder}/${number}.png`, site.bins, latents * site.tops, bin, line));
  }
  return box;
}

// Shares of the highest bin, from noise to image.
const heights = (site, row) => [...site.index.profile[row]].map((digit) => parseInt(digit, 36) / 35).reverse();
const strongestBin = (site, row) => { const bars = heights(site, row); return bars.length - 1 - bars.indexOf(Math.max(...bars)); };

function spark(site, row) {
  const bars = heights(site, row);
  const box = draw("svg", { class: "spark", viewBox: `0 0 ${bars.length} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
  bars.forEach((height, place) => box.append(
    draw("rect", { x: place + 0.06, width: 0.88, y: 10 - Math.max(0.4, 10 * height), height: Math.max(0.4, 10 * height) })));
  return box;
}

const isNamed = (site, row) => site.index.traits[row].length > 0;
const label = (site, row) => (isNamed(site, row) ? traitName(site.index.traits[row][0]) : "no word of its own");
const tells = (site, row) => site.index.tells[row].toFixed(2);

function title(site, row, tag) {
  const element = text(label(site, row), tag);
  if (!isNamed(site, row)) element.classList.add("unnamed");
  return element;
}

const percent = (share) => `${Number((100 * share).toPrecision(2))} %`;

function card(site, row, note) {
  const latent = site.index.latent[row];
  const small = note ?? `${isNamed(site, row) ? `tells ${tells(site, row)} · ` : ""}at ${percent(site.index.frequency[row])} of tokens`;
  return make("li", {}, make("a", { class: "card", href: link(site, latent) },
    tile(site, row, 0, site.index.sample[row], strongestBin(site, row)),
    title(site, row, "strong"),
    text(`${site.site} / ${latent}`, "small"),
    make("small", {}, small),
    spark(site, row)));
}

// ---- the list

function range(id) {
  const [low, high] = $(id).value.split(" ").map(Number);
  return $(id).value ? (value) => value >= low && (value < high || high === 1) : () => true;
}

// For each word of a query the traits that have a word beginning with it.
function wanted(query) {
  return query.toLowerCase().split(/\s+/).filter(Boolean).map((word) => ({
    word,
    traits: new Set(meta.traits.flatMap(([, said], number) => (said.toLowerCase().split(" ").some((one) => one.startsWith(word)) ? [number] : []))),
  }));
}

// How good the worst of a query's words is matched: place among a feature's traits, or Infinity.
function place(query, site, row) {
  let worst = 0;
  for (const { word, traits } of query) {
    if (String(site.index.latent[row]) === word) continue;
    const at = site.index.traits[row].findIndex((number) => traits.has(number));
    if (at < 0) return Infinity;
    worst = Math.max(worst, at);
  }
  return worst;
}

const ORDERS = {
  variety: ({ site, row }) => -site.index.tells[row],
  surely: ({ site, row }) => -site.index.tells[row],
  common: ({ site, row }) => -site.index.frequency[row],
  rare: ({ site, row }) => site.index.frequency[row],
  early: ({ site, row }) => -site.index.time[row],
  late: ({ site, row }) => site.index.time[row],
  number: ({ site, row }) => site.index.latent[row],
};

// Of each name its surest feature first, names of one kind (colours, shapes) in turn with those of others; then the
// second of each. What has no name comes last. The features given are sorted already.
function varied(sorted) {
  const names = new Map(), kinds = new Map();
  const ranked = sorted.map((feature) => {
    const { site, row } = feature, name = isNamed(site, row) ? site.index.traits[row][0] : null;
    if (name === null) return { feature, round: Infinity, place: 0, words: 1 };
    const { factor } = trait(name);
    if (!names.has(name)) {
      kinds.set(factor, (kinds.get(factor) ?? -1) + 1);
      names.set(name, { place: kinds.get(factor), count: 0 });
    }
    const known = names.get(name);
    return { feature, round: known.count++, place: known.place, words: factor ? 0 : 1 };
  });
  const by = (key) => (one, other) => (one[key] === other[key] ? 0 : one[key] - other[key]);
  return ranked.sort((one, other) => by("round")(one, other) || by("words")(one, other) || by("place")(one, other))
    .map(({ feature }) => feature);
}

function filter() {
  const query = wanted($("words").value), inTime = range("time"), inFrequency = range("frequency");
  const only = $("site").value, [factor, value] = $("trait").value ? JSON.parse($("trait").value) : [];
  const stands = factor === undefined ? null : new Set(meta.traits.flatMap(([kind, said], number) => (kind === factor && (value === null || said === value || said.split(" or ").includes(value)) ? [number] : [])));
  const order = ORDERS[$("sort").value];
  found = [];
  for (const feature of features) {
    const { site, row } = feature;
    if (only && site.site !== only) continue;
    if (!inTime(site.index.time[row]) || !inFrequency(site.index.frequency[row])) continue;
    if (stands && !site.index.traits[row].some((number) => stands.has(number))) continue;
    const at = place(query, site, row);
    if (at === Infinity) continue;
    // Of words that are looked for, features whose own first word it is come first.
    found.push({ feature, at: query.length && ["variety", "surely"].includes($("sort").value) ? Math.min(at, 1) : 0, key: order(feature) });
  }
  found.sort((one, other) => one.at - other.at || one.key - other.key);
  found = found.map(({ feature }) => feature);
  if ($("sort").value === "variety" && !query.length) found = varied(found);
  page = 0;
  show();
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / CARDS_A_PAGE));
  $("cards").replaceChildren(...found.slice(page * CARDS_A_PAGE, (page + 1) * CARDS_A_PAGE).map(({ site, row }) => card(site, row)));
  $("count").textContent = found.length === 1 ? "1 feature" : `${found.length.toLocaleString("en")} features`;
  $("where").textContent = `Page ${page + 1} of ${pages}`;
  $("before").disabled = page === 0;
  $("after").disabled = page >= pages - 1;
  $("pages").hidden = pages === 1;
}

function turn(by) {
  page += by;
  show();
  $("cards").focus({ preventScroll: true });
  $("count").scrollIntoView();
}

// ---- one feature

function fact(name, value) { return make("div", {}, make("dt", {}, name), make("dd", {}, value)); }

function binName(site, bin) { return `${(bin / site.bins).toFixed(2)}–${((bin + 1) / site.bins).toFixed(2)}`; }

function profile(site, known) {
  const wide = window.innerWidth < 700 ? 360 : 640, tall = 150, floor = 120, most = Math.max(...known.profile.map((share) => share ?? 0)) || 1;
  const step = wide / site.bins;
  const said = known.profile.map((share, bin) => `t ${binName(site, bin)}: ${share === null ? "not seen" : percent(share)}`).reverse().join("; ");
  const chart = draw("svg", { class: "profile", viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": `Share of tokens at which it fires, by time. ${said}` });
  known.profile.forEach((share, bin) => {
    const left = (site.bins - 1 - bin) * step, high = ((share ?? 0) / most) * (floor - 20);
    chart.append(draw("rect", { x: left + 3, width: step - 6, y: floor - high, height: Math.max(high, 1), rx: 2 }));
    if (share) chart.append(draw("text", { x: left + step / 2, y: floor - high - 5, "text-anchor": "middle" }, percent(share)));
  });
  chart.append(draw("text", { x: 3, y: tall - 8 }, "t = 1, noise"), draw("text", { x: wide - 3, y: tall - 8, "text-anchor": "end" }, "t = 0, image"));
  return chart;
}

function looks(site, row, known) {
  const bins = [...Array(site.bins).keys()].reverse(), heat = site.map[0] * site.map[1] > 1;
  const head = make("tr", {}, make("th", { scope: "col" }, "Caption"), make("th", { scope: "col" }, "Image"));
  if (heat) bins.forEach((bin) => head.append(make("th", { scope: "col" }, `t ${binName(site, bin)}`)));
  const body = make("tbody");
  known.top.forEach(([sample, peak], order) => {
    const caption = make("th", { scope: "row", class: "text" }, make("div", {}, text(samples[sample] || "(no caption)")), make("small", {}, `peak ${peak}`));
    const line = make("tr", {}, caption, make("td", {}, tile(site, row, order, sample, null)));
    if (heat) bins.forEach((bin) => line.append(make("td", {}, tile(site, row, order, sample, bin))));
    body.append(line);
  });
  return scrolled("Images and times", make("table", { class: "looks" }, make("thead", {}, head), body));
}

function told(known) {
  if (!known.traits.length) return make("p", {}, "No word of the captions stands out among its images.");
  const head = ["Word or value", "Lift", "Among its images", "Among all", "AUROC"].map((name) => make("th", { scope: "col" }, name));
  const rows = known.traits.map(([number, auroc, lift, hits]) => make("tr", {},
    make("th", { scope: "row" }, text(traitName(number))),
    make("td", {}, `${lift}×`),
    make("td", {}, `${hits} of ${known.images}`),
    make("td", {}, `${trait(number).count} of ${meta.samples}`),
    make("td", {}, auroc.toFixed(2))));
  return scrolled("What it stands for", make("table", { class: "told" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

const scrolled = (name, table) => make("div", { class: "wide", role: "region", tabindex: "0", "aria-label": name }, table);

function near(site, pairs, measure) {
  const cards = pairs.filter(([latent]) => rowOf(site, latent) !== undefined)
    .map(([latent, value]) => card(site, rowOf(site, latent), `${measure} ${value.toFixed(2)}`));
  return cards.length ? make("ul", { class: "near" }, ...cards) : make("p", {}, "None.");
}

async function open(site, latent) {
  const row = rowOf(site, latent), article = $("feature");
  if (row === undefined) {
    const why = latent < site.latents ? `Latent ${latent} never fired in these images.` : `There is no latent ${latent}: the dictionary has ${site.latents}.`;
    article.replaceChildren(way(null), make("h2", { id: "name", tabindex: "-1" }, `${site.site} / ${latent}`), make("p", {}, why));
    return reveal(`${site.site} / ${latent}`);
  }
  const known = await details(site, row), index = site.index;
  const ends = [...new Set([site.site, ...Object.keys(known.together)])].filter((name) => known.together[name] && sites.get(name)?.index);
  article.replaceChildren(
    way({ site, row }),
    make("h2", { id: "name", tabindex: "-1" }, title(site, row, "span")),
    make("p", {}, make("a", { href: link(site, latent) }, text(`${site.site} / ${latent}`))),
    make("dl", { class: "facts" },
      fact("Fires at", `${percent(index.frequency[row])} of tokens`), fact("Mean time", `t = ${index.time[row].toFixed(2)}`),
      fact("Its name tells it", isNamed(site, row) ? tells(site, row) : "–"), fact("Its images", `${known.images} of ${meta.samples}`)),
    make("h3", {}, "Where it fires most"), looks(site, row, known),
    make("h3", {}, "What it stands for"), told(known),
    make("h3", {}, "When it fires"), profile(site, known),
    make("h3", {}, "Steer by it"), make("p", { class: "hint" }, "In a terminal; one click takes the whole line."), ...commands(site, row, latent),
    make("h3", {}, "Points the same way"), near(site, known.nearest, "cosine"),
    ...ends.flatMap((name) => [
      make("h3", {}, "Fires together with", name === site.site ? "" : " in ", name === site.site ? "" : text(name)),
      near(sites.get(name), known.together[name], "share")]));
  reveal(`${label(site, row)} · ${site.site} / ${latent}`);
}

const quoted = (words) => (/^[\w./-]+$/.test(words) ? words : `'${words.replaceAll("'", "'\\''")}'`);

function commands(site, row, latent) {
  const words = isNamed(site, row) ? trait(site.index.traits[row][0]).text.split(" or ") : [];
  const about = samples.find((caption) => !words.some((word) => caption.toLowerCase().includes(word)) && /^\S+( \S+){3,8}$/.test(caption));
  const run = quoted(meta.title), prompt = about === undefined ? "" : ` --prompt ${quoted(about)}`;
  return [`tide steer ${run} --latent ${quoted(`${site.site}/${latent}`)}${prompt}`, `tide play ${run}`].map((line) => make("code", { class: "command" }, line));
}

function way(feature) {
  const bar = make("nav", { class: "way", "aria-label": "Way" }, make("a", { href: "#" }, "← All features"));
  const at = feature ? found.findIndex((one) => one.site === feature.site && one.row === feature.row) : -1;
  const turns = [[at - 1, "← Previous"], [at + 1, "Next →"]].filter(([to]) => at >= 0 && found[to])
    .map(([to, name]) => make("a", { href: link(found[to].site, found[to].site.index.latent[found[to].row]) }, name));
  if (turns.length) bar.append(make("span", {}, ...turns.flatMap((one, number) => (number ? [" · ", one] : [one]))));
  return bar;
}

function reveal(name) {
  document.title = name ? `${name} · Atlas` : `Atlas · ${meta.title}`;
  $("feature").hidden = !name;
  $("list").hidden = Boolean(name);
  if (name) { window.scrollTo(0, 0); $("name").focus(); }
}

// ---- the way around

let left = null; // the feature that was open

async function follow() {
  const match = /^#(.+)\/(\d+)$/.exec(location.hash);
  let site;
  try { site = match && sites.get(decodeURIComponent(match[1])); } catch { site = null; } // not well encoded
  if (match && site) {
    left = location.hash;
    await loadIndex(site);
    return open(site, Number(match[2]));
  }
  reveal("");
  const card = left && [...document.querySelectorAll("#cards .card")].find((one) => one.getAttribute("href") === left);
  if (card) card.focus();
  left = null;
}

async function loadIndex(site) {
  if (site.index) return;
  site.index = await load(`data/${site.folder}/index.js`, site.site);
  site.rows = new Map(site.index.latent.map((latent, row) => [latent, row]));
}

function offer(select, value, name) { select.append(make("option", { value }, name)); }

function offerTraits() {
  const factors = new Map();
  for (const [factor, value] of meta.traits) if (factor) factors.set(factor, [...(factors.get(factor) ?? []), value]);
  for (const [factor, all] of factors) {
    const values = all.filter((value) => !value.split(" or ").every((part) => part !== value && all.includes(part)));
    const group = make("optgroup", { label: factor });
    offer(group, JSON.stringify([factor, null]), `any ${factor}`);
    values.sort().forEach((value) => offer(group, JSON.stringify([factor, value]), `${factor}: ${value}`));
    $("trait").append(group);
  }
  $("trait").parentElement.hidden = !factors.size;
}

async function start() {
  meta = await load("data/meta.js", "meta");
  samples = await load("data/samples.js", "samples");
  for (const site of meta.sites) { sites.set(site.site, site); offer($("site"), site.site, site.site); }
  $("title").textContent = meta.title;
  const live = meta.sites.reduce((sum, site) => sum + site.live, 0);
  $("about").textContent = `${live.toLocaleString("en")} live features of ${meta.sites.length} ${meta.sites.length === 1 ? "site" : "sites"}, from ${meta.steps}`;
  offerTraits();
  for (const site of meta.sites) {
    await loadIndex(site);
    features.push(...site.index.latent.map((_, row) => ({ site, row })));
  }
  filter();
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  document.querySelector("[data-skip]").addEventListener("click", (event) => { event.preventDefault(); $("cards").focus(); });
  window.addEventListener("hashchange", () => follow().catch(complain));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("feature").hidden) location.hash = ""; });
  await follow();
  document.body.dataset.ready = "yes";
}

function complain(error) { $("count").textContent = error.message; $("list").hidden = false; }

start().catch(complain);
