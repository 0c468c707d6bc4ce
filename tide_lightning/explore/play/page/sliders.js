// The chosen latents: one row each, with an operation and an amount.

const OPERATIONS = {
  add: "add", scale: "multiply by", clamp: "set to", ablate: "switch off", invert: "turn round",
};
// Amounts of `add` and `clamp` are told in times: of how far the latent's word moves it, or of how high it fires by itself.
const RANGES = { add: [-3, 3], scale: [-5, 5], clamp: [0, 3] };
const STARTS = { add: 1, scale: 2, clamp: 1 };

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export class Sliders {
  constructor(list, changed) {
    this.list = list;
    this.changed = changed;
    this.rows = new Map();
  }

  has(site, latent) {
    return this.rows.has(`${site}/${latent}`);
  }

  // `times` or an `amount` in the SAE's own unit, which is turned into times as soon as it is known how many.
  add({ site, latent, name, times, amount: raw }) {
    const key = `${site}/${latent}`;
    let waiting = raw === undefined ? undefined : Number(raw);
    if (this.rows.has(key)) return;
    const operation = element("select", { ariaLabel: `What to do with ${key}` });
    for (const [value, text] of Object.entries(OPERATIONS)) operation.append(element("option", { value }, text));
    const amount = element("input", { type: "range", step: "any", ariaLabel: `Amount of ${key}` });
    const shown = element("output");
    const means = element("p", { className: "hint" });
    const remove = element("button", { type: "button", ariaLabel: `Remove ${key}` }, "Remove");
    const slide = element("div", { className: "slide" }, amount, shown);
    const item = element(
      "li", {}, element("fieldset", {}, element("legend", {}, name ? `${name} · ${key}` : key), element("div", { className: "row" }, operation, remove), slide, means),
    );
    const show = () => { shown.textContent = `${Number(amount.value).toFixed(1)}${operation.value === "scale" ? "" : "×"}`; };
    const begin = () => {
      const ranged = operation.value in RANGES;
      slide.hidden = !ranged;
      if (ranged) {
        [amount.min, amount.max] = RANGES[operation.value];
        amount.value = STARTS[operation.value];
      }
      show();
    };
    operation.addEventListener("change", () => { waiting = undefined; begin(); this.changed(); });
    amount.addEventListener("input", () => { waiting = undefined; show(); });
    amount.addEventListener("change", () => this.changed());
    remove.addEventListener("click", () => this.remove(key));
    begin();
    if (times !== undefined) { amount.value = times; show(); }
    this.rows.set(key, {
      item,
      edit: () => ({ site, latent, operation: operation.value, ...(waiting === undefined ? { times: Number(amount.value) } : { amount: waiting }) }),
      told: ({ amount: came, unit, means: inWords, everywhere }) => {
        if (waiting !== undefined) {
          const far = came / unit;
          [amount.min, amount.max] = [Math.min(-3, far), Math.max(3, far)];
          amount.value = far;
          waiting = undefined;
          show();
        }
        means.textContent = operation.value in RANGES && operation.value !== "scale"
          ? `1× is ${inWords}${everywhere ? "; reaches everywhere" : "; reaches where it fires"}`
          : "";
      },
    });
    this.list.append(item);
    amount.focus();
    this.changed();
  }

  remove(key) {
    const { item } = this.rows.get(key);
    const near = item.nextElementSibling ?? item.previousElementSibling;
    this.rows.delete(key);
    item.remove();
    (near?.querySelector("input") ?? document.getElementById("filter")).focus();
    this.changed();
  }

  clear() {
    for (const { item } of this.rows.values()) item.remove();
    this.rows.clear();
    this.changed();
  }

  // What the server made of the edits, in their order.
  tell(edits) {
    [...this.rows.values()].forEach(({ told }, place) => edits[place] && told(edits[place]));
  }

  edits() {
    return [...this.rows.values()].map(({ edit }) => edit());
  }
}
