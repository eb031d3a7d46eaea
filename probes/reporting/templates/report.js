"use strict";
(() => {
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const root = document.documentElement;

  // Theme: as the system has it, light, dark.
  const themes = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const remember = (name) => { try { return name ? localStorage.setItem("theme", name) : localStorage.getItem("theme"); } catch { return null; } };
  const paint = (name) => {
    if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
  };
  let theme = themes.includes(remember()) ? remember() : "auto";
  paint(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    paint(theme);
    remember(theme);
  });

  // What is shown: the set and the pooling chosen above, and the words that rows of the long table must hold.
  const chosen = { set: "", pooling: "" };
  const find = document.getElementById("find");
  const parts = all("main [data-set], main [data-pooling], main [data-only]");
  const fits = (part) => ["set", "pooling"].every((name) => !chosen[name] || !(name in part.dataset) || part.dataset[name] === chosen[name])
    && (!("only" in part.dataset) || part.dataset.only === chosen.pooling);
  const show = () => {
    for (const part of parts) part.hidden = !fits(part);
    if (find) {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = all("#scores tbody tr");
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !fits(row) || !words.every((word) => text.includes(word));
      }
      document.getElementById("found").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
    }
    for (const note of all(".nothing")) {
      const own = parts.filter((part) => note.parentElement.contains(part));
      note.hidden = !own.length || own.some((part) => !part.hidden);
    }
  };
  for (const input of all("#filters input")) {
    input.addEventListener("change", () => {
      chosen[input.name] = input.value;
      input.parentElement.scrollIntoView({ block: "nearest", inline: "nearest" });
      show();
    });
    if (input.checked) chosen[input.name] = input.value;
  }
  const filters = document.getElementById("filters");
  if (filters) filters.hidden = false;
  if (find) {
    find.parentElement.hidden = false;
    find.addEventListener("input", show);
  }
  show();

  // Tables sort by a column when its title is pressed; what is no number comes after numbers.
  const number = (text) => parseFloat(text.replace("−", "-").replaceAll(",", ""));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
    return isNaN(x) ? a.localeCompare(b) : x - y;
  };
  for (const table of all("table.sortable")) {
    const heads = all("thead tr:last-child th", table);
    heads.forEach((head, column) => {
      if (head.className === "plain") return;
      const press = document.createElement("button");
      press.type = "button";
      press.append(...head.childNodes);
      head.append(press);
      press.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [row.cells[column].textContent, row]);
        body.append(...rows.sort(([a], [b]) => up * compare(a, b)).map(([, row]) => row));
      });
    });
  }
})();
