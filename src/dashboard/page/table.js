"use strict";

/* Tables: heads that sort, a filter, and no more rows than one can read. A column: head, of(row) to sort by, cell(row). */
function makeTable(name, caption, columnsOf, textOf) {
  const settings = (memory.tables[name] ??= { sort: "weight", down: true, filter: "", all: false });
  const search = el("input", { type: "search", "aria-label": `filter ${caption}`, placeholder: "filter: id, role, state, reason", spellcheck: "false", oninput: () => { settings.filter = search.value; draw(); } });
  search.value = settings.filter;
  const count = soft(), head = el("thead"), body = el("tbody"), more = el("p");
  const table = el("table", { "aria-label": caption }, head, body);
  const node = el("section", { class: "card" }, el("div", { class: "row" }, el("h2", {}, caption), count, el("span", { class: "push search" }, search)),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table), more);
  let rows = [], context = null;

  function sorted(columns) {
    const needle = settings.filter.trim().toLowerCase();
    const kept = needle ? rows.filter((row) => textOf(row).toLowerCase().includes(needle)) : rows;
    const column = columns.find((one) => one.head === settings.sort);
    if (!column) return kept;
    const isEmpty = (value) => value === null || value === undefined || value === "";
    const sign = settings.down ? -1 : 1;
    return kept.map((row) => [column.of(row), row]).sort(([a], [b]) =>
      isEmpty(a) || isEmpty(b) ? isEmpty(a) - isEmpty(b) : sign * (typeof a === "string" ? a.localeCompare(b) : a - b)).map(([, row]) => row);
  }
  function sortBy(column) {
    if (settings.sort === column.head) settings.down = !settings.down;
    else [settings.sort, settings.down] = [column.head, Boolean(column.num)];
    draw();
  }
  function headCell(column) {
    const isSorted = settings.sort === column.head;
    return el("th", { scope: "col", class: column.num ? "num" : null, "aria-sort": isSorted ? (settings.down ? "descending" : "ascending") : null },
      el("button", { type: "button", "data-key": `${name}-${column.head}`, title: column.title, onclick: () => sortBy(column) }, column.label || column.head, isSorted ? (settings.down ? " ↓" : " ↑") : ""));
  }
  function groupCells(columns) {
    const groups = [];
    for (const column of columns) {
      const last = groups.at(-1);
      if (last && last.name === column.group) last.span++;
      else groups.push({ name: column.group, span: 1 });
    }
    return groups.map((group) => (group.name ? el("th", { scope: "colgroup", colspan: group.span, class: "group" }, el("span", {}, group.name)) : el("td", { colspan: group.span, style: "border:0" })));
  }
  function line(columns, row) {
    return el("tr", {}, columns.map((column, index) => el(index ? "td" : "th", { scope: index ? null : "row", class: column.num ? "num" : column.why ? "why" : null, title: column.tip?.(row) }, column.cell(row))));
  }
  function draw() {
    const columns = columnsOf(context), found = sorted(columns), shown = settings.all ? found : found.slice(0, SHOWN_ROWS);
    keepFocus(() => {
      head.replaceChildren(...(columns.some((column) => column.group) ? [el("tr", {}, groupCells(columns))] : []), el("tr", {}, columns.map(headCell)));
      body.replaceChildren(...shown.map((row) => line(columns, row)));
    });
    count.textContent = found.length === rows.length ? plural(rows.length, "peer") : `${grouped(found.length)} of ${plural(rows.length, "peer")}`;
    const toggle = () => { settings.all = !settings.all; draw(); };
    const rest = found.length > SHOWN_ROWS;
    more.replaceChildren(...(!found.length ? [soft(rows.length ? "No peer matches the filter." : "Nobody is on the roster.")] : !rest ? [] :
      [el("button", { type: "button", onclick: toggle }, settings.all ? `show the first ${SHOWN_ROWS}` : `show all ${grouped(found.length)}`)]));
  }
  return { node, show: (newRows, newContext) => { rows = newRows; context = newContext; draw(); } };
}
function keepFocus(change) {
  const key = document.activeElement?.getAttribute?.("data-key");
  change();
  if (key && !document.activeElement?.getAttribute("data-key")) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}
const byNumber = (head, of, format, more) => ({ head, num: true, of, cell: (row) => format(of(row)), ...more });
