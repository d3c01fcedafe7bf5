// The page's only script: values under the pointer, lines that the legend toggles, sorted columns, copied tables.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, kind, text = "") => {
    const made = document.createElement(tag);
    made.className = kind;
    made.textContent = text;
    return made;
  };
  const words = element => element.textContent.replace(/\s+/g, " ").trim();
  const button = (text, act) => {
    const made = make("button", "", text);
    made.type = "button";
    made.addEventListener("click", () => act(made));
    return made;
  };

  const pressed = (element, act) => {
    element.tabIndex = 0;
    element.addEventListener("click", act);
    element.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        act();
      }
    });
  };

  // A click on a column's heading sorts the rows by it, those without a number last; another click turns the order.
  const numbered = /^[<≥+\u2212-]?\s*\d/;
  const number = text => parseFloat(text.replace(/\u2212/g, "-").match(/-?\d[\d.]*(e-?\d+)?/i)[0]);
  const sort = (table, column, sign) => {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter(row => !row.classList.contains("setting"));
      const keyed = rows.map(row => [row.cells[column] ? words(row.cells[column]) : "", row]);
      const full = keyed.filter(([key]) => key && key !== "-");
      const numeric = full.every(([key]) => numbered.test(key));
      full.sort(([a], [b]) => sign * (numeric ? number(a) - number(b) : a.localeCompare(b)));
      body.append(...full.map(([, row]) => row), ...keyed.filter(([key]) => !key || key === "-").map(([, row]) => row));
    }
  };
  for (const table of all("table.sorts")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const inner = make("span", "");
      pressed(inner, () => {
        const falls = head.getAttribute("aria-sort") === "descending";
        heads.forEach(one => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", falls ? "ascending" : "descending");
        sort(table, column, falls ? 1 : -1);
      });
      inner.setAttribute("role", "button");
      inner.title = "sort by this column";
      inner.append(...head.childNodes);
      head.append(inner);
    });
  }

  // A table as text for a paper or a note.
  const escaped = { "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}",
    "\u2212": "$-$", "±": "$\\pm$", "≥": "$\\ge$", "<": "$<$", ">": "$>$" };
  const latexed = text => text.replace(/[&%$#_{}~^\\\u2212±≥<>]/g, found => escaped[found]);
  const captionOf = table => document.getElementById(table.getAttribute("aria-labelledby"));
  const contents = table => [...table.rows].map(row => [...row.cells].map(words));
  const asLatex = table => {
    const [heads, ...rows] = contents(table).map(row => row.map(latexed));
    const line = row => row.length < heads.length ? `\\multicolumn{${heads.length}}{l}{${row[0]}} \\\\` : `${row.join(" & ")} \\\\`;
    return ["\\begin{table}", "\\centering", `\\caption{${latexed(words(captionOf(table)).replace(/^Table \d+\. /, ""))}}`,
      `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`, "\\toprule", line(heads), "\\midrule", ...rows.map(line),
      "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
  };
  const asMarkdown = table => {
    const [heads, ...rows] = contents(table).map(row => row.map(cell => cell.replace(/[|*_<\\]/g, "\\$&")));
    const line = row => `| ${[...row, ...Array(heads.length - row.length).fill("")].join(" | ")} |`;
    return [line(heads), `| --- |${" ---: |".repeat(heads.length - 1)}`, ...rows.map(line), "", words(captionOf(table)), ""].join("\n");
  };
  const copy = async (made, text) => {
    const before = made.textContent;
    try {
      await navigator.clipboard.writeText(text);
      made.textContent = "copied";
      setTimeout(() => { made.textContent = before; }, 1500);
    } catch {
      // A page within another one may not write to the clipboard: the text is shown, to be copied by hand.
      const area = make("textarea", "copied", text);
      area.readOnly = true;
      made.parentElement.replaceChildren(area);
      area.select();
    }
  };
  for (const table of all("table[aria-labelledby]")) {
    const tools = make("p", "tools");
    tools.append(button("Copy as LaTeX", made => copy(made, asLatex(table))),
      button("Copy as Markdown", made => copy(made, asMarkdown(table))));
    captionOf(table).after(tools);
  }

  // Tables that are wider than the window say so.
  const wide = all(".wide");
  const mark = () => wide.forEach(one => one.classList.toggle("scrolls", one.scrollWidth > one.clientWidth + 1));
  addEventListener("resize", mark);
  mark();

  // A click on an entry of the legend hides its lines, and shows them again.
  const figureOf = legend => legend.closest("figure") ?? legend.nextElementSibling;
  for (const legend of all(".legend")) {
    for (const entry of all("li[data-series]", legend)) {
      const toggle = () => {
        const off = entry.classList.toggle("off");
        entry.setAttribute("aria-checked", String(!off));
        for (const part of all(`svg [data-series="${entry.dataset.series}"]`, figureOf(legend))) {
          part.classList.toggle("off", off);
        }
      };
      entry.title = "show or hide";
      entry.setAttribute("role", "switch");
      entry.setAttribute("aria-checked", "true");
      pressed(entry, toggle);
    }
  }

  // The values of a figure's lines at the pointer.
  const SHOWN = 10, NEAR = 8;
  const scale = text => {
    const [from, to, low, high, kind] = text.split(" ").map((part, i) => i < 4 ? Number(part) : part);
    const share = at => (at - from) / (to - from);
    return { from, to, at: kind === "log"
      ? at => low * (high / low) ** share(at)
      : at => low + (high - low) * share(at) };
  };
  const segments = d => d.split("M").slice(1).map(part => {
    const numbers = part.match(/-?\d+(\.\d+)?/g).map(Number);
    return Array.from({ length: numbers.length / 2 }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]);
  });
  const height = (pieces, x) => {
    for (const piece of pieces) {
      for (let i = 0; i < piece.length; i++) {
        const [x1, y1] = piece[i], [x0, y0] = piece[Math.max(i - 1, 0)];
        if (x0 <= x && x <= x1) return x1 > x0 ? y0 + (y1 - y0) * (x - x0) / (x1 - x0) : y1;
      }
    }
    return null;
  };
  const shown = (value, name) => (name === "step" ? String(Math.round(value)) : String(Number(value.toPrecision(4))))
    .replace(/^-/, "\u2212");
  const tip = make("div", "tip"), rule = make("div", "rule");
  tip.hidden = rule.hidden = true;
  document.body.append(rule, tip);
  for (const drawing of all("svg[data-x]")) {
    const across = scale(drawing.dataset.x), up = scale(drawing.dataset.y);
    const figure = drawing.closest("figure");
    const legend = all("figure > .legend", document).find(one => one.parentElement === figure) ??
      (figure.previousElementSibling?.matches(".legend") ? figure.previousElementSibling : null);
    const named = series => legend?.querySelector(`[data-series="${series}"]`);
    let lines = null;
    const read = () => all(".line[data-series] > path", drawing).map(path => ({
      pieces: segments(path.getAttribute("d")), part: path.parentElement, entry: named(path.parentElement.dataset.series),
    }));
    const leave = () => { tip.hidden = rule.hidden = true; };
    drawing.addEventListener("pointerleave", leave);
    drawing.addEventListener("pointermove", event => {
      lines ??= read();
      const frame = drawing.getBoundingClientRect(), view = drawing.viewBox.baseVal;
      const zoom = frame.width / view.width;
      let x = (event.clientX - frame.left) / zoom;
      const y = (event.clientY - frame.top) / zoom;
      const visible = lines.filter(one => !one.part.classList.contains("off"));
      if (x < across.from || x > across.to || !visible.length) return leave();
      const points = visible.flatMap(one => one.pieces.flat().map(([at]) => at));
      const nearest = points.reduce((best, at) => Math.abs(at - x) < Math.abs(best - x) ? at : best);
      if (Math.abs(nearest - x) < NEAR) x = nearest;
      const found = visible.map(one => [height(one.pieces, x), one]).filter(([at]) => at !== null);
      if (!found.length) return leave();
      found.sort(([a], [b]) => Math.abs(a - y) - Math.abs(b - y));
      const rows = found.slice(0, SHOWN).sort(([a], [b]) => a - b).map(([at, one]) => {
        const row = make("div", "");
        const swatch = one.entry?.querySelector("svg");
        if (swatch) row.append(swatch.cloneNode(true));
        row.append(`${one.entry ? words(one.entry) : drawing.dataset.yName}: ${shown(up.at(at), "")}`);
        return row;
      });
      tip.replaceChildren(make("b", "", `${drawing.dataset.xName} ${shown(across.at(x), drawing.dataset.xName)}`), ...rows);
      tip.hidden = rule.hidden = false;
      rule.style.cssText = `left:${frame.left + x * zoom + scrollX}px;top:${frame.top + up.to * zoom + scrollY}px;height:${(up.from - up.to) * zoom}px`;
      const left = frame.left + x * zoom + 12;
      const fits = left + tip.offsetWidth < document.documentElement.clientWidth;
      tip.style.left = `${Math.max(fits ? left : left - tip.offsetWidth - 24, 0) + scrollX}px`;
      tip.style.top = `${frame.top + up.to * zoom + scrollY}px`;
    });
  }

  // Folded parts are open on paper.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    opened.forEach(one => { one.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach(one => { one.open = false; }));
})();
