// The chosen latents: one row each, with an operation and an amount.

const OPERATIONS = {
  add: "add", scale: "multiply by", clamp: "set to", ablate: "switch off", invert: "turn round",
};
const RANGES = { add: (reach) => [-reach, reach], scale: () => [-5, 5], clamp: (reach) => [0, reach] };
const STARTS = { add: (reach) => reach / 3, scale: () => 2, clamp: (reach) => reach / 3 };

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

  add(site, latent, reach, value) {
    const key = `${site}/${latent}`;
    if (this.rows.has(key)) return;
    const operation = element("select", { ariaLabel: `What to do with ${key}` });
    for (const [value, text] of Object.entries(OPERATIONS)) operation.append(element("option", { value }, text));
    const amount = element("input", { type: "range", step: "any", ariaLabel: `Amount of ${key}` });
    const shown = element("output");
    const remove = element("button", { type: "button", ariaLabel: `Remove ${key}` }, "Remove");
    const slide = element("div", { className: "slide" }, amount, shown);
    const item = element(
      "li", {}, element("fieldset", {}, element("legend", {}, key), element("div", { className: "row" }, operation, remove), slide),
    );
    const show = () => { shown.textContent = Number(amount.value).toFixed(1); };
    const begin = () => {
      const ranged = operation.value in RANGES;
      slide.hidden = !ranged;
      if (ranged) {
        [amount.min, amount.max] = RANGES[operation.value](reach);
        amount.value = STARTS[operation.value](reach);
      }
      show();
    };
    operation.addEventListener("change", () => { begin(); this.changed(); });
    amount.addEventListener("input", show);
    amount.addEventListener("change", () => this.changed());
    remove.addEventListener("click", () => this.remove(key));
    begin();
    if (value !== undefined) {
      amount.value = value;
      show();
    }
    this.rows.set(key, { item, edit: () => ({ site, latent, operation: operation.value, amount: Number(amount.value) }) });
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

  edits() {
    return [...this.rows.values()].map(({ edit }) => edit());
  }
}
