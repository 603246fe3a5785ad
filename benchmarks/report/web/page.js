// The page's behaviour. Text reaches the document through textContent and attributes alone, never as markup: names are
// data. Numbers come computed; what is counted here is which detections of the gallery pass a threshold.
"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  function make(tag, attributes = {}, ...children) {
    const node = tag.startsWith("svg:")
      ? document.createElementNS(SVG, tag.slice(4))
      : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob($(id).textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  if (typeof DecompressionStream === "undefined") {
    $("broken").hidden = false;
    $("broken").textContent = "This browser is too old for the table, the plots and the gallery (it lacks DecompressionStream).";
    return;
  }
  const content = JSON.parse(await unpacked("content"));

  // ---------------------------------------------------------------- numbers as text

  // Ties to even, as in the tables: 6.25 is 6.2 there, and 6.3 by toFixed. Only fractions of powers of two can be ties.
  const fixed = (v, digits) => {
    const tenths = v * 10 ** digits;
    const tie = Number.isInteger(v * 2 ** (digits + 1)) && Math.abs(tenths % 1) === 0.5;
    return (tie ? (2 * Math.round(tenths / 2)) / 10 ** digits : v).toFixed(digits);
  };
  const number = (v, digits = 1, factor = 1) => (v === null || v === undefined ? "–" : fixed(v * factor, digits));
  // What rounds to nothing is +0.0 from either side, as in the tables.
  const signed = (v) => (fixed(100 * v, 1).startsWith("-") && +fixed(100 * v, 1) !== 0 ? "−" : "+") + fixed(Math.abs(100 * v), 1);
  const range = (low, high, digits = 1, factor = 1) => `${number(low, digits, factor)}–${number(high, digits, factor)}`;
  function percent(value) {
    if (!value) return "–";
    return number(value[0], 1, 100) + (value[1] === null || value[1] === undefined ? "" : ` (${range(value[1], value[2], 1, 100)})`);
  }
  function cell(value, digits = 1, factor = 100) {
    if (!value) return ["–"];
    const out = [number(value[0], digits, factor)];
    if (value[1] !== null && value[1] !== undefined) out.push(" ", make("span", { class: "ci" }, `(${range(value[1], value[2], digits, factor)})`));
    return out;
  }
  const kinds = { classification: "wrong class", localisation: "wrong place", both: "both wrong", duplicate: "double", background: "no box", missed: "missed" };

  // ---------------------------------------------------------------- the table of all records

  const accuracy = (name) => ({ sort: (r) => r.accuracy[name]?.[0] ?? null, show: (r) => cell(r.accuracy[name]), factor: 100, digits: 1 });
  const plain = (field) => ({ sort: (r) => r[field], show: (r) => [r[field] ?? "–"] });
  const columns = [
    { key: "model", label: "model", text: true, ...plain("model") },
    { key: "dataset", label: "data set", text: true, ...plain("dataset") },
    { key: "scale", label: "scale", text: true, ...plain("scale") },
    { key: "pixels", label: "px", ...plain("pixels") },
    { key: "fold", label: "fold", ...plain("fold") },
    { key: "seed", label: "seed", ...plain("seed") },
    { key: "epochs", label: "epochs", ...plain("epochs") },
    { key: "ap50", label: "AP50", ...accuracy("AP50") },
    { key: "ap", label: "AP", ...accuracy("AP") },
    { key: "apsmall", label: "AP small", ...accuracy("AP_small") },
    { key: "recall", label: "recall at 1 false", ...accuracy("inspection.FROC.1") },
    { key: "escape", label: "escape", ...accuracy("inspection.operating_point.escape") },
    { key: "overkill", label: "overkill", ...accuracy("inspection.operating_point.overkill") },
    { key: "params", label: "params (M)", sort: (r) => r.parameters, show: (r) => [number(r.parameters, 2, 1e-6)], factor: 1e-6, digits: 2 },
    { key: "gmacs", label: "GMACs", sort: (r) => r.macs, show: (r) => [number(r.macs, 2, 1e-9)], factor: 1e-9, digits: 2 },
    { key: "latency", label: "latency ratio", sort: (r) => r.ratio?.[0] ?? null, show: (r) => cell(r.ratio, 2, 1), digits: 2 },
    { key: "minutes", label: "training (min, at most)", sort: (r) => r.minutes, show: (r) => [number(r.minutes, 1)], digits: 1 },
    { key: "status", label: "status", text: true, sort: (r) => r.status, show: (r) => [r.status === "ok" ? "ok" : make("span", { class: "bad" }, r.status.replaceAll("_", " "))] },
    { key: "start", label: "start", text: true, sort: (r) => r.start, show: (r) => [r.start === null ? "–" : r.start === "scratch" ? "scratch" : make("span", { title: r.start }, "pretrained")] },
    { key: "device", label: "device", text: true, ...plain("device") },
    { key: "commit", label: "commit", text: true, ...plain("commit") },
  ];
  const lines = content.records.map((record) => ({
    record,
    node: make("tr", {}, ...columns.map((c, i) => make(i ? "td" : "th", { class: c.text ? "text" : null, scope: i ? null : "row" }, ...c.show(record)))),
    words: [record.model, record.name, record.dataset, record.scale, record.status, record.device, record.commit, record.start, record.id].join(" ").toLowerCase(),
  }));
  let sorting = { column: null, down: false };
  const body = make("tbody");
  const heads = columns.map((c) => make("th", { scope: "col", class: c.text ? "text" : null, "aria-sort": "none" },
    make("button", { type: "button", onclick: () => sortBy(c) }, c.label)));
  $("table").append(make("table", { class: "records" }, make("thead", {}, make("tr", {}, ...heads)), body));

  function sortBy(column) {
    const down = sorting.column === column ? !sorting.down : !column.text;
    sorting = { column, down };
    heads.forEach((head, i) => head.setAttribute("aria-sort", columns[i] !== column ? "none" : down ? "descending" : "ascending"));
    showLines();
  }

  // "AP50>60" compares a column in the unit and to the digits that it is shown in; what holds no sign is a word, and a
  // sign that cannot be read is said to be. A column goes by its heading, blanks included, or a short name.
  const headings = [...columns].sort((a, b) => b.label.length - a.label.length)
    .map((c) => [new RegExp(`(^|\\s)${c.label.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}\\s*(?=!=|[<>=])`, "gi"), `$1${c.key}`]);
  const ascii = { "≠": "!=", "≥": ">=", "≤": "<=" };
  const terms = (text) => headings.reduce((t, [label, key]) => t.replace(label, key), text.replace(/[≠≥≤]/g, (sign) => ascii[sign]))
    .replace(/\s*([<>!]=|[<>=])\s*/g, "$1").split(/\s+/).filter(Boolean);
  function condition(term) {
    if (!/[<>=]/.test(term)) return (line) => line.words.includes(term.toLowerCase());
    const found = /^([a-z0-9][a-z0-9_]*)(<=|>=|!=|=|<|>)([^<>=!].*)$/i.exec(term);
    const column = found && columns.find((c) => c.key === found[1].toLowerCase().replaceAll("_", ""));
    if (!column) return null;
    const [, , sign, right] = found;
    if (column.text) {
      const at = columns.indexOf(column);
      const holds = (line) => `${column.sort(line.record) ?? ""}\n${line.node.children[at].textContent}`.toLowerCase().includes(right.toLowerCase());
      return { "=": holds, "!=": (line) => (column.sort(line.record) ?? null) !== null && !holds(line) }[sign] ?? null;
    }
    const wanted = Number(right);
    if (Number.isNaN(wanted)) return null;
    return (line) => {
      const raw = column.sort(line.record);
      if (raw === null || raw === undefined) return false;
      const value = Number(fixed(raw * (column.factor ?? 1), column.digits ?? 0));
      return { "<": value < wanted, ">": value > wanted, "<=": value <= wanted, ">=": value >= wanted, "=": value === wanted, "!=": value !== wanted }[sign];
    };
  }

  function showLines() {
    const asked = terms($("filter").value), conditions = asked.map(condition);
    const unread = asked.filter((_, i) => !conditions[i]);
    const set = $("filter-set").value, status = $("filter-status").value;
    const kept = lines.filter((l) => (!set || l.record.dataset === set) && (!status || l.record.status === status) && conditions.every((c) => !c || c(l)));
    const { column, down } = sorting;
    if (column) {
      const missing = (v) => v === null || v === undefined;
      kept.sort((a, b) => {
        const [x, y] = [column.sort(a.record), column.sort(b.record)];
        if (missing(x) || missing(y)) return missing(x) - missing(y); // at the end either way
        const order = typeof x === "string" ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
    }
    body.replaceChildren(...kept.map((l) => l.node));
    $("shown").textContent = `${kept.length} of ${lines.length} records` + (unread.length ? `; not understood, and left out: ${unread.join(", ")}` : "");
  }

  function options(select, values, first) {
    select.replaceChildren(...(first ? [make("option", { value: "" }, first)] : []), ...values.map(([value, label]) => make("option", { value }, label)));
  }
  const unique = (values) => [...new Set(values)].sort();
  options($("filter-set"), unique(content.records.map((r) => r.dataset)).map((v) => [v, v]), "all");
  options($("filter-status"), unique(content.records.map((r) => r.status)).map((v) => [v, v.replaceAll("_", " ")]), "any");
  for (const id of ["filter", "filter-set", "filter-status"]) $(id).addEventListener("input", showLines);
  showLines();

  // ---------------------------------------------------------------- one section at a time, and who is shown

  const dark = matchMedia("(prefers-color-scheme: dark)");
  // Told apart by colour (after Okabe and Ito), by shape and by dashes.
  const palette = {
    light: ["#0072b2", "#c44f00", "#00805d", "#b0508a", "#8a6500", "#2f7fb8", "#6f4fb0", "#8c4a3c", "#4d5866", "#b3261e"],
    dark: ["#5ab0ee", "#ff9553", "#2bc196", "#e892c3", "#e0b63e", "#8fd0f7", "#b79cf0", "#d59b8c", "#b4bfcb", "#ff8a80"],
  };
  const shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
  const dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]];
  const colour = (i) => { const p = palette[dark.matches ? "dark" : "light"]; return p[i % p.length]; };
  const shape = (i) => shapes[i % shapes.length];
  const dash = (i) => dashes[Math.floor(i / 3) % dashes.length];
  const paths = { circle: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0", square: "M-4.5-4.5h9v9h-9z", "triangle-up": "M0-5.5L5.5 4.5h-11z", diamond: "M0-6L5 0L0 6L-5 0z", cross: "M-5.5-1.8h3.7v-3.7h3.6v3.7h3.7v3.6h-3.7v3.7h-3.6v-3.7h-3.7z", "triangle-down": "M0 5.5L5.5-4.5h-11z" };
  const glyph = (i, title) => make("svg:svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" },
    ...(title ? [make("svg:title", {}, title)] : []), make("svg:path", { d: paths[shape(i)], fill: colour(i) }));

  const MOST_SHOWN = 8;
  let now = content.sections[0];
  let on = new Set();
  options($("pick"), content.sections.map((s, i) => [i, s.title]));

  function pick(index) {
    now = content.sections[index];
    on = new Set(now.rows.map((_, i) => i).slice(0, MOST_SHOWN));
    chips();
    const titles = now.rows.map((r, i) => [i, r.title]);
    options($("a"), titles); options($("b"), titles);
    $("b").value = now.rows.length > 1 ? "1" : "0";
    settings = {};
    layCharts();
    showCompared();
    openGallery();
  }

  function chips() {
    $("chips").replaceChildren(...now.rows.map((row, i) => make("button", {
      type: "button", "aria-pressed": String(on.has(i)),
      onclick: (event) => {
        if (!on.delete(i)) on.add(i);
        event.currentTarget.setAttribute("aria-pressed", String(on.has(i)));
        drawCharts(); showGallery();
      },
    }, glyph(i), row.title)));
  }
  const shownRows = () => now.rows.map((row, i) => ({ row, i })).filter(({ i }) => on.has(i));

  // ---------------------------------------------------------------- plots (Vega-Lite)

  const scales = (channels) => {
    const domain = now.rows.map((r) => r.title);
    const of = { color: () => ({ range: domain.map((_, i) => colour(i)) }), shape: () => ({ range: domain.map((_, i) => shape(i)) }), strokeDash: () => ({ range: domain.map((_, i) => dash(i)) }) };
    return Object.fromEntries(channels.map((c) => [c, { field: "model", type: "nominal", legend: null, scale: { domain, ...of[c]() } }]));
  };
  const tips = (...fields) => [{ field: "model", title: "model" }, ...fields.map(([field, title]) => ({ field, title, type: "nominal" }))];
  const q = (field, title, more = {}) => ({ field, type: "quantitative", title, ...more });
  const around = { scale: { zero: false, padding: 14 } };

  const metrics = { AP50: "AP50", AP: "AP", AP_small: "AP small", "sizes.below 16 x 16 px.AP50": "AP50 below 16 x 16 px", "inspection.FROC.1": "recall at 1 false alarm an image" };
  const costs = {
    parameters: ["parameters in evaluation (M)", (r) => r.parameters === null ? null : [r.parameters / 1e6]],
    macs: ["multiply-accumulates an image (G)", (r) => r.macs === null ? null : [r.macs / 1e9]],
    ratio: ["latency, as a ratio", (r) => r.ratio],
    training: ["training time, as a ratio", (r) => r.training_ratio === null ? null : [r.training_ratio]],
  };
  const fills = { converged: 1, "not told": 0.45, "still learning": 0 };

  // Lines over x with a point at each x, an interval around each where there is one, and all of it in a hover.
  function overlaid(values, x, y, { points = true, band = false, interpolate = "linear", scale = {} } = {}) {
    const layer = [];
    if (band) layer.push({ mark: { type: "rule", opacity: 0.55, clip: true }, encoding: { x, y: q("low", y.title), y2: { field: "high" }, ...scales(["color"]) } });
    layer.push({ mark: { type: "line", interpolate, clip: true, strokeWidth: 2 }, encoding: { x, y, ...scales(["color", "strokeDash"]) } });
    layer.push({ mark: { type: "point", filled: true, size: points ? 55 : 30, opacity: points ? 1 : 0, clip: true }, encoding: { x, y, ...scales(["color", "shape"]), tooltip: tips(["shown", "here"]) } });
    return { data: { values }, layer, ...scale };
  }

  // Curves by size come from detections beside the records, so some rows, or all, may have none: that is said.
  const sizes = { small: "small boxes (to 32 x 32 px)", medium: "medium boxes (to 96 x 96 px)", large: "large boxes" };
  const foldsOf = (folds) => `fold${folds.length > 1 ? "s" : ""} ${folds.join(", ")}`;
  const sizeOf = (i, size) => now.by_size.rows?.[i]?.sizes[size];
  const boxesOf = (i, size) => `, ${sizeOf(i, size)[0]} boxes in ${now.by_size.rows[i].trainings} trainings`;
  const measuredSizes = () => Object.keys(sizes).filter((size) => now.rows.some((_, i) => sizeOf(i, size)));
  function untold() {
    if (now.by_size.absent) return `No curves by size: ${now.by_size.absent}`;
    const none = Object.keys(sizes).filter((size) => !measuredSizes().includes(size));
    return none.length ? `No test image of these trainings holds a box that is ${none.join(" or ")}.` : "";
  }
  function sized() {
    const shown = shownRows(), without = shown.filter(({ i }) => !now.by_size.rows[i]).map(({ row }) => row.title);
    const fewer = shown.map(({ row, i }) => ({ row, own: now.by_size.rows[i] })).filter(({ row, own }) => own && own.trainings < row.runs)
      .map(({ row, own }) => `${row.title}: ${own.trainings} of ${row.runs} trainings${row.folds.every((fold) => own.folds.includes(fold)) ? "" : `, ${foldsOf(own.folds)} of ${row.folds.join(", ")}`}.`);
    return ["COCO's bins, ends included; from the detections beside the records, without intervals.", untold(), ...fewer, without.length ? `Not told, for want of detections: ${without.join(", ")}.` : ""].filter(Boolean).join(" ");
  }

  // As in the summary. An entry has a title and the folds that its mean is over.
  function overFolds(entries) {
    const by = new Map();
    for (const { title, folds } of entries) if (folds.length) by.set(folds.join(), { folds, titles: [...(by.get(folds.join())?.titles ?? []), title] });
    if (by.size < 2) return "";
    const widest = [...by.values()].sort((a, b) => b.folds.length - a.folds.length);
    return `Means over different folds, some of which are harder: ${widest.map(({ titles, folds }) => `${titles.join(", ")} of ${foldsOf(folds)}`).join("; ")}. Compare differences, not means.`;
  }
  const ofRows = (shown) => shown;

  // Each: title, what it shows, what may be chosen, which rows' means stand beside each other in it, if any, and the
  // specification for the rows shown; null where nothing is.
  const charts = [
    {
      id: "cost", title: "Accuracy over cost", broad: true, means: ofRows,
      controls: () => [["y", "accuracy", Object.entries(metrics).map(([k, v]) => [k, v])], ["x", "cost", Object.entries(costs).map(([k, v]) => [k, v[0]])]],
      help: () => "Whiskers: 95%. Filled: trained to the end; half: not told; hollow: still learning. Faint dots: single trainings." + (now.reference ? ` Ratios are to ${now.reference}.` : ""),
      spec: ({ x, y }) => {
        const values = [], single = [];
        for (const { row } of shownRows()) {
          const cost = costs[x][1](row), value = row.accuracy[y];
          if (!cost || !value) continue;
          values.push({ model: row.title, x: cost[0], xl: cost[1] ?? cost[0], xh: cost[2] ?? cost[0], y: 100 * value[0], low: 100 * (value[1] ?? value[0]), high: 100 * (value[2] ?? value[0]), fill: fills[row.learning], shown: percent(value), cost: number(cost[0], 2) + (cost[1] != null ? ` (${range(cost[1], cost[2], 2)})` : ""), runs: row.runs + (row.diverged ? `, and ${row.diverged} that diverged` : ""), learning: row.learning, covers: value[3] });
          if (y === "AP50" && row.trainings.length > 1) for (const v of row.trainings) single.push({ model: row.title, x: cost[0], y: 100 * v });
        }
        if (!values.length) return null;
        const X = q("x", costs[x][0], { ...around, axis: { tickCount: 8 } }), Y = q("y", `${metrics[y]} (%)`, around);
        const tooltip = tips(["shown", metrics[y]], ["cost", costs[x][0]], ["runs", "trainings"], ["learning", "trained to its end"], ["covers", "interval over"]);
        return { data: { values }, layer: [
          { mark: { type: "rule", strokeWidth: 1.5 }, encoding: { x: X, y: q("low", `${metrics[y]} (%)`), y2: { field: "high" }, ...scales(["color"]) } },
          { mark: { type: "rule", strokeWidth: 1.5 }, encoding: { x: q("xl", costs[x][0]), x2: { field: "xh" }, y: Y, ...scales(["color"]) } },
          ...(single.length ? [{ data: { values: single }, mark: { type: "point", filled: true, size: 18, opacity: 0.4 }, encoding: { x: X, y: Y, ...scales(["color"]) } }] : []),
          { mark: { type: "point", filled: true, size: 150, opacity: 1, color: style("--card") }, encoding: { x: X, y: Y, shape: scales(["shape"]).shape } },
          { mark: { type: "point", size: 150, strokeWidth: 2, opacity: 1, filled: false }, encoding: { x: X, y: Y, ...scales(["color", "shape"]) } },
          { mark: { type: "point", size: 150, filled: true, strokeWidth: 0 }, encoding: { x: X, y: Y, ...scales(["color", "shape"]), opacity: { field: "fill", type: "quantitative", scale: null, legend: null }, tooltip } },
        ] };
      },
    },
    {
      id: "size", title: "AP50 over defect size", means: ofRows, help: () => "Boxes by share of the image that they cover, and below 16 x 16 pixels. Whiskers: 95%. The number of boxes is over all trainings.",
      spec: () => {
        const order = ["below 16 x 16 px", "below 0.1% of the image", "0.1% to 1%", "1% to 10%", "above 10%"];
        const values = shownRows().flatMap(({ row }) => Object.entries(row.sizes).map(([size, [v, boxes]]) => ({ model: row.title, size, y: 100 * v[0], low: v[1] === null ? null : 100 * v[1], high: v[2] === null ? null : 100 * v[2], shown: `${percent(v)}, ${boxes} boxes, all trainings` })));
        if (!values.length) return null;
        const x = { field: "size", type: "nominal", title: null, sort: order, axis: { labelAngle: 0, labelExpr: "split(datum.label, / (?=of|px|x 16|to)/)" } };
        const offset = { xOffset: { field: "model", type: "nominal", scale: { domain: shownRows().map(({ row }) => row.title) } } };
        const y = q("y", "AP50 (%)", { scale: { domainMin: 0 } });
        return { data: { values }, layer: [
          { mark: { type: "rule", opacity: 0.6, strokeWidth: 1.5 }, encoding: { x, ...offset, y: q("low", "AP50 (%)"), y2: { field: "high" }, ...scales(["color"]) } },
          { mark: { type: "point", filled: true, size: 60, opacity: 1 }, encoding: { x, ...offset, y, ...scales(["color", "shape"]), tooltip: tips(["size", "size"], ["shown", "AP50"]) } },
        ] };
      },
    },
    {
      id: "forest", title: "Differences to one model",
      controls: () => [["to", "to", now.rows.map((r, i) => [i, r.title])], ["what", "of", paired.filter(([name]) => now.rows.some((r) => r.accuracy[name]))]],
      help: ({ to }) => {
        const why = now.rows.map((_, i) => pairOf(i, +to)).filter((p) => p && p.reason).length;
        return "Paired by fold and seed; 95%. On the same resampled test images for AP50, AP and AP small, else as of independent ones." + (why ? " Hollow: shown and not ranked (too few trainings, or not trained to the end); with one training each the interval is over images only." : "");
      },
      spec: ({ to, what }) => {
        const values = shownRows().map(({ row, i }) => ({ row, i, pair: pairOf(i, +to) })).filter(({ i, pair }) => i !== +to && pair?.of[what]).map(({ row, pair }) => {
          const e = pair.of[what];
          return { model: row.title, x: 100 * e.mean, low: e.low === null ? null : 100 * e.low, high: e.high === null ? null : 100 * e.high, fill: pair.reason ? 0 : 1, shown: difference(e), ranked: pair.reason ?? "yes", covers: e.covers, pairs: e.runs };
        });
        if (!values.length) return null;
        const y = { field: "model", type: "nominal", title: null, sort: { field: "x", order: "descending" }, axis: { labelLimit: 170 } };
        const tooltip = tips(["shown", "difference"], ["pairs", "pairs"], ["covers", "interval over"], ["ranked", "ranked"]);
        return { height: Math.max(60, 34 * values.length), data: { values }, layer: [
          { data: { values: [{}] }, mark: { type: "rule", strokeDash: [4, 3], color: style("--soft") }, encoding: { x: { datum: 0, type: "quantitative" } } },
          { mark: { type: "rule", strokeWidth: 2 }, encoding: { y, x: q("low", "difference in points", { scale: { padding: 10 } }), x2: { field: "high" }, ...scales(["color"]) } },
          { mark: { type: "point", size: 110, strokeWidth: 2, opacity: 1 }, encoding: { y, x: q("x", "difference in points"), ...scales(["color", "shape"]), tooltip } },
          { mark: { type: "point", filled: true, size: 110 }, encoding: { y, x: q("x", "difference in points"), ...scales(["color", "shape"]), opacity: { field: "fill", type: "quantitative", scale: null, legend: null }, tooltip } },
        ] };
      },
    },
    {
      id: "pr", title: "Precision over recall", means: ofRows,
      controls: () => [["of", "boxes", [["", "mean of classes"], ...measuredSizes().map((size) => [`size:${size}`, sizes[size]]), ...classes().map((c) => [`class:${c}`, c])]]],
      help: ({ of }) => of.startsWith("size:")
        ? `At IoU 0.5, interpolated, mean over classes and over trainings; the mean height of a curve is AP50 of the size. ${sized()}`
        : `At IoU 0.5, interpolated, mean over trainings; the mean height of a curve is AP50. ${untold()}`,
      spec: ({ of }) => {
        const name = of.slice(of.indexOf(":") + 1);
        const values = [];
        for (const { row, i } of shownRows()) {
          const curves = of.startsWith("size:")
            ? [sizeOf(i, name)?.[1]].filter(Boolean)
            : Object.entries(row.classes).filter(([own, c]) => c[2] && (!of || own === name)).map(([, c]) => c[2]);
          if (!curves.length) continue;
          for (let k = 0; k <= 100; k += 1) {
            const p = curves.reduce((sum, c) => sum + c[k], 0) / curves.length / 10;
            values.push({ model: row.title, x: k, y: p, shown: `recall ${k}%, precision ${p.toFixed(1)}%${of.startsWith("size:") ? boxesOf(i, name) : ""}` });
          }
        }
        return values.length ? overlaid(values, q("x", "recall (%)", { scale: { domain: [0, 100] }, axis: { tickCount: 5 } }), q("y", "precision (%)", { scale: { domain: [0, 100] } }), { points: false }) : null;
      },
    },
    {
      id: "froc", title: "Recall over false alarms (FROC)", means: ofRows,
      controls: () => [
        ["of", "per", [["froc", "image"], ["froc_good", "defect-free image"]].filter(([k]) => now.rows.some((r) => r[k].length))],
        ["size", "boxes", [["", "all"], ...measuredSizes().map((size) => [size, sizes[size]])]],
      ],
      help: ({ size }) => size
        ? `At IoU 0.5, over all classes, mean over trainings: recall of these boxes over false alarms of every size. ${sized()}`
        : `At IoU 0.5, over all classes. Whiskers: 95%. ${untold()}`,
      spec: ({ of, size }) => {
        const values = shownRows().flatMap(({ row, i }) => ((size ? sizeOf(i, size)?.[of === "froc" ? 2 : 3] : row[of]) ?? []).map(([x, v, low = null, high = null]) => ({ model: row.title, x, y: 100 * v, low: low === null ? null : 100 * low, high: high === null ? null : 100 * high, shown: `${percent([v, low, high])} at ${x}${size ? boxesOf(i, size) : ""}` })));
        return values.length ? overlaid(values, q("x", `false alarms per ${of === "froc" ? "image" : "defect-free image"}`, { scale: { type: "log", base: 2 }, axis: { values: [0.125, 0.25, 0.5, 1, 2, 4, 8], format: "~g" } }), q("y", "recall (%)", { scale: { zero: false } }), { band: !size }) : null;
      },
    },
    {
      id: "classes", title: "AP50 by class", means: ofRows, help: () => "Mean over trainings. The number of boxes is over all of them.",
      spec: () => {
        const values = shownRows().flatMap(({ row }) => Object.entries(row.classes).filter(([, c]) => c[0]).map(([name, [v, boxes]]) => ({ model: row.title, name, y: 100 * v[0], shown: `${percent(v)}, ${boxes} boxes, all trainings` })));
        if (!values.length) return null;
        return { height: Math.max(120, 30 * classes().length), data: { values }, mark: { type: "point", filled: true, size: 75, opacity: 0.9 }, encoding: { y: { field: "name", type: "nominal", title: null, sort: classes(), axis: { grid: true, labelLimit: 150 } }, x: q("y", "AP50 (%)", { scale: { domain: [0, 100] } }), ...scales(["color", "shape"]), tooltip: tips(["name", "class"], ["shown", "AP50"]) } };
      },
    },
    {
      id: "errors", title: "What errors cost", means: ofRows, help: () => "Points of AP50 that mending one kind of error alone would gain (TIDE).",
      spec: () => {
        const values = shownRows().flatMap(({ row }) => Object.entries(row.errors).map(([kind, [v, low, high, n]]) => ({ model: row.title, kind: kinds[kind], y: 100 * v, shown: `${percent([v, low, high])} points, ${n} errors` })));
        if (!values.length) return null;
        return { data: { values }, mark: { type: "bar", cornerRadiusEnd: 2 }, encoding: { x: { field: "kind", type: "nominal", title: null, sort: content.errors.map((k) => kinds[k]), axis: { labelAngle: 0, labelExpr: "split(datum.label, ' ')" } }, xOffset: { field: "model", type: "nominal", scale: { domain: shownRows().map(({ row }) => row.title) } }, y: q("y", "AP50 gained (points)"), ...scales(["color"]), tooltip: tips(["kind", "error"], ["shown", "gain"]) } };
      },
    },
    {
      id: "confusion", title: "Confusion", controls: () => [["of", "model", now.rows.map((r, i) => [i, r.title]).filter(([i]) => now.rows[i].confusion)]],
      help: ({ of }) => {
        const c = now.rows[of]?.confusion;
        const ends = c && unique([Math.min(...c.thresholds), Math.max(...c.thresholds)].map((v) => number(v, 2)));
        return c ? `Boxes (rows) by the class that they are found as, from score ${ends.join(" to ")}${c.thresholds.length > 1 ? `, ${c.thresholds.length} trainings together` : ""}. Last column: missed; last row: found where no box is.` : "";
      },
      spec: ({ of }) => {
        const c = now.rows[of]?.confusion;
        if (!c) return null;
        const names = c.labels.slice(0, -1);
        const free = (name) => (names.includes(name) ? free(`(${name})`) : name); // a class may have that name
        const rows = [...names, free("no box")], found = [...names, free("missed")];
        const values = c.matrix.flatMap((line, i) => {
          const all = line.reduce((a, b) => a + b, 0);
          return line.map((n, j) => ({ model: now.rows[of].title, row: rows[i], found: found[j], n, share: all ? n / all : 0, text: i === names.length && j === names.length ? "" : String(n), shown: `${n} of ${all}` })).filter((v) => v.text !== "");
        });
        const x = { field: "found", type: "nominal", sort: found, title: "found as", axis: { labelAngle: -35, labelLimit: 90, orient: "bottom", grid: false } };
        const y = { field: "row", type: "nominal", sort: rows, title: "box of", axis: { labelLimit: 90, grid: false } };
        return { data: { values }, height: Math.max(200, 30 * rows.length), layer: [
          { mark: { type: "rect" }, encoding: { x, y, color: { field: "share", type: "quantitative", legend: null, scale: { domain: [0, 1], range: [style("--faint"), colour(0)] } }, tooltip: tips(["row", "box of"], ["found", "found as"], ["shown", "boxes"]) } },
          { mark: { type: "text", fontSize: 11 }, encoding: { x, y, text: { field: "text" }, color: { condition: { test: `datum.share > ${dark.matches ? 0.6 : 0.8}`, value: dark.matches ? "#0d1117" : "#ffffff" }, value: style("--ink") } } },
        ] };
      },
    },
    {
      id: "calibration", title: "Can scores be believed?", means: ofRows, help: () => "Precision of detections by score, bins of 0.1. On the dashed line a score is the share that is right.",
      spec: () => {
        const values = shownRows().flatMap(({ row }) => row.calibration.map(([n, confidence, precision]) => ({ model: row.title, x: confidence, y: precision, shown: `score ${number(confidence, 2)}: ${number(precision, 1, 100)}% right of ${n}` })));
        if (!values.length) return null;
        const spec = overlaid(values, q("x", "score", { scale: { domain: [0, 1] }, axis: { tickCount: 5 } }), q("y", "share that is right", { scale: { domain: [0, 1] } }));
        spec.layer.unshift({ data: { values: [{ a: 0, b: 0 }, { a: 1, b: 1 }] }, mark: { type: "line", strokeDash: [4, 3], color: style("--soft"), strokeWidth: 1 }, encoding: { x: q("a", "score"), y: q("b", "share that is right") } });
        return spec;
      },
    },
    {
      id: "curve", title: "Training curves", help: () => "Sum of a model's own losses, mean over trainings; whiskers: lowest and highest. Losses of two families are not to be compared.",
      spec: () => {
        const values = shownRows().flatMap(({ row }) => row.curve.map(([epoch, v, low, high, lr]) => ({ model: row.title, x: epoch, y: v, low, high, shown: `epoch ${epoch}: ${number(v, 3)}, learning rate ${lr.toPrecision(2)}` })));
        return values.length ? overlaid(values, q("x", "epoch", { scale: { zero: false, padding: 6 }, axis: { tickMinStep: 1 } }), q("y", "loss", { scale: { type: "log", nice: false, padding: 10 }, axis: { tickCount: 6 } }), { points: values.length < 400, band: values.some((v) => v.low !== v.high) }) : null;
      },
    },
    {
      id: "budget", title: "AP50 over the length of training",
      means: (shown) => [...now.courses.map((c) => ({ title: c.label, folds: [c.fold] })), ...shown.filter((row) => !now.courses.some((c) => c.label === row.title))],
      help: () => {
        const gone = now.courses.flatMap((c) => c.points.filter(([, v]) => v === null).map(([epochs, , , n]) => `${c.label} after ${epochs} epochs (${n})`));
        return "Trainings of other lengths, where there are any: who gains from twice the schedule is still learning; that is told of one schedule of each, at its point." + (gone.length ? ` All diverged: ${gone.join(", ")}.` : "");
      },
      spec: () => {
        const judgedAt = (c, epochs) => (epochs === c.once ? `; ${c.once} to ${2 * c.once} epochs: ${c.verdict}` : "");
        const values = now.courses.flatMap((c) => c.points.filter(([, v]) => v !== null).map(([epochs, v, n, diverged]) => ({ model: c.label, x: epochs, y: 100 * v, shown: `${number(v, 1, 100)} after ${epochs} epochs, ${n} trainings${c.on ? ` on ${c.on}` : ""}${diverged ? `, ${diverged} more diverged` : ""}${judgedAt(c, epochs)}` })));
        for (const { row } of shownRows()) if (row.accuracy.AP50 && !now.courses.some((c) => c.label === row.title)) values.push({ model: row.title, x: row.epochs, y: 100 * row.accuracy.AP50[0], shown: `${percent(row.accuracy.AP50)} after ${row.epochs} epochs` });
        return new Set(values.map((v) => v.x)).size > 1 ? overlaid(values, q("x", "epochs", { scale: { zero: false, padding: 12 }, axis: { tickMinStep: 1 } }), q("y", "AP50 (%)", { scale: { zero: false, padding: 12 } })) : null;
      },
    },
    {
      id: "latency", title: "Latency, image by image", help: () => `End to end at batch 1; each model's median is its ratio${now.reference ? ` to ${now.reference}` : ""}. Each line is an image; a time in milliseconds is quoted for no CPU.`,
      spec: () => {
        const timed = shownRows().filter(({ row }) => row.latency?.samples.length);
        const values = timed.flatMap(({ row }) => row.latency.samples.map((v) => ({ model: row.title, x: v * row.latency.ratio, shown: `${number(v, 2)} of its median`, p: `${number(row.latency.p90, 2)} and ${number(row.latency.p99, 2)}` })));
        if (!values.length) return null;
        const y = { field: "model", type: "nominal", title: null, sort: timed.map(({ row }) => row.title), axis: { labelLimit: 170 } };
        return { height: Math.max(60, 36 * timed.length), data: { values }, layer: [
          { mark: { type: "tick", opacity: 0.55, thickness: 1.5 }, encoding: { y, x: q("x", "latency, as a ratio", around), ...scales(["color"]), tooltip: tips(["shown", "this image"], ["p", "p90 and p99, of its median"]) } },
          { transform: [{ aggregate: [{ op: "median", field: "x", as: "m" }], groupby: ["model"] }], mark: { type: "point", filled: true, size: 90, opacity: 1 }, encoding: { y, x: q("m", "latency, as a ratio"), ...scales(["color", "shape"]) } },
        ] };
      },
    },
  ];

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const classes = () => unique(now.rows.flatMap((r) => Object.keys(r.classes)));
  let settings = {};
  let vega = null;
  let seen = new Set();

  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); seen.add(entry.target.dataset.chart); draw(entry.target.dataset.chart); }
  }, { rootMargin: "300px" });

  // The library is unpacked when the first plot comes near, so that the table is there at once.
  function library() {
    vega ??= unpacked("vega").then((code) => {
      document.head.append(make("script", {}, `(() => {${code}\n})();`));
      return window.vegaEmbed;
    });
    return vega;
  }

  function layCharts() {
    watcher.disconnect(); seen = new Set();
    const first = on;
    on = new Set(now.rows.map((_, i) => i));
    const measured = charts.filter((chart) => {
      settings[chart.id] = Object.fromEntries((chart.controls?.() ?? []).map(([name, , choices]) => [name, String(choices[0]?.[0] ?? "")]));
      return chart.spec(settings[chart.id]) !== null; // what nobody was measured in is left out
    });
    on = first;
    $("charts").replaceChildren(...measured.map((chart) => {
      const controls = chart.controls?.() ?? [], chosen = settings[chart.id];
      const selects = controls.map(([name, label, choices]) => {
        const select = make("select", { onchange: (e) => { chosen[name] = e.target.value; draw(chart.id); } });
        options(select, choices);
        return make("label", {}, label, " ", select);
      });
      const node = make("article", { class: chart.broad ? "chart broad" : "chart", "data-chart": chart.id, id: `chart-${chart.id}` },
        make("h3", {}, chart.title), ...(selects.length ? [make("div", { class: "controls" }, ...selects)] : []),
        make("div", { class: "plot", role: "img", "aria-label": chart.title }), make("p", { class: "help" }));
      watcher.observe(node);
      return node;
    }));
  }

  const drawCharts = () => { for (const id of seen) draw(id); };

  const turns = {};
  async function draw(id) {
    const chart = charts.find((c) => c.id === id), node = $(`chart-${id}`), plot = node.querySelector(".plot");
    const turn = (turns[id] = (turns[id] ?? 0) + 1);
    const spec = chart.spec(settings[id]);
    const shown = shownRows().map(({ row }) => row);
    node.querySelector(".help").textContent = [chart.help?.(settings[id]), chart.means && overFolds(chart.means(shown))].filter(Boolean).join(" ");
    if (!spec) {
      plot.replaceChildren(make("p", { class: "none" }, on.size ? "Not measured for these." : "No model is chosen."));
      return;
    }
    const embed = await library();
    if (turn !== turns[id]) return; // drawn again meanwhile
    const ink = style("--ink"), soft = style("--soft"), line = style("--line");
    const font = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
    const config = {
      background: "transparent", font, view: { stroke: null }, aria: false,
      axis: { labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", gridOpacity: 0.7 },
      text: { color: ink },
    };
    const full = { width: "container", height: 240, autosize: { type: "fit-x", contains: "padding" }, ...spec, config };
    plot.replaceChildren();
    const holder = make("div", { style: "width:100%", "aria-hidden": "true" }); // .plot says what it is
    plot.append(holder);
    await embed(holder, full, { actions: false, renderer: "svg", tooltip: { theme: "custom" }, ast: false });
    plot.style.minHeight = "0";
    plot.dataset.drawn = String(turn);
  }

  // ---------------------------------------------------------------- two rows beside each other

  const effect = (e, sign) => e && { mean: sign * e[0], low: e[1] === null ? null : sign > 0 ? e[1] : -e[2], high: e[1] === null ? null : sign > 0 ? e[2] : -e[1], p: e[3], runs: e[4], covers: e[6] };
  const paired = Object.entries(content.paired);
  function pairOf(a, b) {
    const pair = now.pairs.find(([i, j]) => (i === a && j === b) || (i === b && j === a));
    if (!pair) return null;
    const sign = pair[0] === a ? 1 : -1;
    return { reason: pair[2], of: Object.fromEntries(paired.map(([name], k) => [name, effect(pair[3 + k], sign)])) };
  }
  const difference = (e) => (!e ? "–" : signed(e.mean) + (e.low === null ? "" : ` (${signed(e.low)} to ${signed(e.high)})`));

  function differenceCell(e) {
    const [value, ...interval] = difference(e).split(/ (?=\()/);
    return [value, ...interval.flatMap((text) => [" ", make("span", { class: "ci" }, text)])];
  }

  function showCompared() {
    const [i, j] = [+$("a").value, +$("b").value], [a, b] = [now.rows[i], now.rows[j]];
    const pair = pairOf(i, j);
    const out = [];
    const note = i === j ? "Choose two different rows." : !pair ? `Pairs are compared among the first ${now.most_paired} rows of a table.` : pair.reason;
    if (note) out.push(make("p", { class: "note" }, note + (pair && Object.values(pair.of).some(Boolean) ? " A difference below is that of these trainings on these test images, and no verdict." : "")));
    if (i !== j && overFolds([a, b])) out.push(make("p", { class: "help" }, overFolds([a, b])));
    const rows = paired.filter(([name]) => a.accuracy[name] || b.accuracy[name]).map(([name, label]) => {
      const e = pair?.of[name];
      const p = !e || e.p === null ? "–" : e.p < 0.001 ? "< 0.001" : e.p.toFixed(3);
      return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, ...cell(a.accuracy[name])), make("td", {}, ...cell(b.accuracy[name])), make("td", {}, ...differenceCell(e)), make("td", {}, e ? String(e.runs) : "–"), make("td", {}, p), make("td", { class: "text" }, !e ? "" : e.low === null ? "no interval" : e.covers));
    });
    const facts = [["parameters (M)", (r) => number(r.parameters, 2, 1e-6) + (r.as_built ? " as built" : "")], ["GMACs", (r) => number(r.macs, 2, 1e-9)], ["latency ratio", (r) => cell(r.ratio, 2, 1)], ["epochs", (r) => r.epochs], ["trainings", (r) => r.runs + (r.diverged ? `, and ${r.diverged} that diverged` : "")], ["trained to its end", (r) => r.learning], ["start", (r) => (r.pretrained === null ? "–" : r.pretrained ? "pretrained" : "scratch")], ["classes never found", (r) => Object.keys(r.never_found).join(", ") || (r.runs ? "none" : "–")]];
    for (const [label, of] of facts) rows.push(make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, ...[of(a)].flat()), make("td", {}, ...[of(b)].flat()), make("td"), make("td"), make("td"), make("td")));
    out.push(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Comparison of two rows" }, make("table", {},
      make("thead", {}, make("tr", {}, ...["", `A: ${a.title}`, `B: ${b.title}`, "A − B, paired", "pairs", "p", "interval over"].map((t, k) => (t ? make("th", { scope: "col", class: k === 6 ? "text" : null }, t) : make("td"))))),
      make("tbody", {}, ...rows))));
    out.push(make("p", { class: "help" }, "Pairs are trainings of both on one fold with one seed. AP50, AP and AP small: on the same resampled test images; of the others a record keeps no resamples, and their intervals are those of independent images, which are wider. p is each metric's own, not adjusted for how many there are."));
    $("compared").replaceChildren(...out);
  }
  $("a").addEventListener("change", showCompared);
  $("b").addEventListener("change", showCompared);

  // ---------------------------------------------------------------- the gallery

  // x y w h score class state box
  const SCORE = 4, CLASS = 5, STATE = 6, BOX = 7;
  let view = null;

  function openGallery() {
    const g = now.gallery;
    const absent = !g.images;
    $("gallery-absent").hidden = !absent; $("gallery-body").hidden = absent; $("suspects").hidden = absent;
    view = null;
    if (absent) { $("gallery-absent").textContent = g.absent; return; }
    const pictures = g.images.some((i) => i.picture);
    $("gallery-about").textContent = `${g.images.length} of ${g.of_images} test images of fold ${g.fold}, those that say most; one training of ${g.models.length} of ${g.of_models} models. Matches are the evaluator's, at IoU 0.5. ` + (pictures ? "" : "Images are not in this file (--with-images puts them in); boxes stand on blank panels. ") + "Left and right arrow keys, Home and End walk through the images.";
    options($("class"), g.classes.map((c, k) => [k, c]), "any");
    $("size").value = ""; $("order").value = "missed";
    const least = Math.max(...g.models.map((m) => m.least)) / g.steps;
    $("score").min = String(Math.ceil(least * 200) / 200);
    const own = g.models.map((m) => m.threshold / g.steps).sort((a, b) => a - b);
    $("score").value = String(own[Math.floor(own.length / 2)]);
    view = { own: true, at: Number($("score").value), image: null, listed: [] }; // as the slider rounds it
    listSuspects();
    showGallery();
  }

  const threshold = (m) => (view.own ? now.gallery.models[m].threshold : view.at * now.gallery.steps);
  const fits = (w, h, k, area) => {
    const [, low, high, end] = /^\[(.+),(.+)([\])])$/.exec($("size").value || "[0,1e12]"), size = area ?? w * h;
    return (!$("class").value || +$("class").value === k) && size >= +low && (end === ")" ? size < +high : size <= +high);
  };
  // COCO's bins are of the area as given, which may be a mask's; the smallest is of the box, as the evaluator has it.
  const boxFits = (b) => fits(b[2], b[3], b[4], $("size").value.endsWith(")") ? b[7] ?? b[5] : b[5]);

  // What one model does with one image at the threshold: its true and false detections, and the boxes it misses.
  function judged(image, m) {
    const kept = image.found[m].filter((d) => d[SCORE] >= threshold(m));
    const hit = new Set(kept.filter((d) => d[STATE] === 1).map((d) => d[BOX]));
    return {
      hit,
      right: kept.filter((d) => d[STATE] === 1 && boxFits(image.boxes[d[BOX]])),
      wrong: kept.filter((d) => d[STATE] === 0 && fits(d[2], d[3], d[CLASS])),
      ignored: kept.filter((d) => d[STATE] === 2),
      missed: image.boxes.filter((b, j) => !b[6] && !hit.has(j) && boxFits(b)),
    };
  }

  const chosenOn = { validation: "its operating point", test: "best F1 on these test images", nothing: "nothing chosen" };
  const shownModels = () => now.gallery.models.map((m, k) => ({ m, k })).filter(({ m }) => on.has(m.row));

  function told(image) {
    const each = shownModels().map(({ k }) => judged(image, k));
    const real = image.boxes.map((b, j) => [b, j]).filter(([b]) => !b[6]);
    const missed = each.reduce((sum, e) => sum + e.missed.filter((b) => b[5] <= 1024).length, 0);
    const good = !image.boxes.length; // with ignored boxes alone it is neither good nor defective
    const alarms = good ? each.reduce((sum, e) => sum + e.wrong.length, 0) : 0;
    let apart = 0;
    for (let a = 0; a < each.length; a += 1) for (let b = 0; b < a; b += 1) {
      const differ = real.filter(([box, j]) => boxFits(box) && each[a].hit.has(j) !== each[b].hit.has(j)).length + Math.abs(each[a].wrong.length - each[b].wrong.length);
      apart = Math.max(apart, differ);
    }
    const any = real.some(([b]) => boxFits(b)) || each.some((e) => e.wrong.length);
    return { missed, alarms, apart, any, holds: good ? "good part" : real.length ? `${real.length} boxes` : "ignored boxes alone" };
  }

  function showGallery() {
    if (!view) return;
    const filtered = $("class").value || $("size").value, order = $("order").value;
    view.listed = now.gallery.images.map((image, i) => ({ i, image, ...told(image) })).filter((e) => !filtered || e.any);
    if (order !== "name") view.listed.sort((a, b) => b[order] - a[order] || a.i - b.i);
    else view.listed.sort((a, b) => a.image.name.localeCompare(b.image.name));
    const count = (n, what) => (n ? [`${n} ${what}`] : []);
    $("images").replaceChildren(...view.listed.map((e) => make("li", {}, make("button", { type: "button", "data-image": e.i, tabindex: "-1", onclick: () => showImage(e.i) },
      make("b", {}, e.image.name), make("small", {}, [e.holds, ...count(e.missed, "small missed"), ...count(e.alarms, "false alarms"), ...(e.apart ? [`models differ in ${e.apart}`] : [])].join(" · "))))));
    showScore();
    const keep = view.listed.some((e) => e.i === view.image) ? view.image : view.listed[0]?.i;
    if (keep === undefined) { $("panels").replaceChildren(make("p", { class: "none" }, "No image holds any of these.")); $("image-title").textContent = ""; return; }
    showImage(keep);
  }

  function showScore() {
    $("own").setAttribute("aria-pressed", String(view.own));
    if (!view.own) $("score").value = String(view.at);
    $("score-shown").textContent = view.own ? "(each model's own)" : Number($("score").value).toFixed(3);
    const [low, high] = [Number($("score").min), 1];
    $("marks").replaceChildren(...shownModels().map(({ m }) => {
      const node = glyph(m.row, "");
      node.style.left = `${(100 * (m.threshold / now.gallery.steps - low)) / (high - low)}%`;
      return node;
    }));
  }

  function showImage(i, focus = false) {
    view.image = i;
    const image = now.gallery.images[i];
    for (const button of $("images").querySelectorAll("button")) {
      const current = +button.dataset.image === i;
      button.setAttribute("aria-current", String(current));
      button.tabIndex = current ? 0 : -1;
      if (!current) continue;
      if (focus) button.focus({ preventScroll: true });
      const list = $("images");
      list.scrollTo({ top: button.offsetTop - list.offsetTop - 80, left: button.offsetLeft - list.offsetLeft - 60 });
    }
    const place = view.listed.findIndex((e) => e.i === i);
    $("image-title").textContent = `${image.name}, ${image.size[0]} x ${image.size[1]} px, ${place + 1} of ${view.listed.length}`;
    const boxes = image.boxes.filter(boxFits);
    const truth = panel(image, "Ground truth", null, boxes.length ? boxes.map((b) => now.gallery.classes[b[4]]).join(", ") : "no box", boxes.map((b) => [b, b[6] ? "ignored" : "truth", `${now.gallery.classes[b[4]]}${b[6] ? ", ignored" : ""}`]));
    $("panels").replaceChildren(truth, ...shownModels().map(({ m, k }) => {
      const e = judged(image, k), score = (d) => (d[SCORE] / now.gallery.steps).toFixed(2);
      const marks = [
        ...e.ignored.map((d) => [d, "ignored", `${now.gallery.classes[d[CLASS]]} ${score(d)}, on an ignored box`]),
        ...e.missed.map((b) => [b, "missed", `missed: ${now.gallery.classes[b[4]]}`]),
        ...e.right.map((d) => [d, "true", `true: ${now.gallery.classes[d[CLASS]]} ${score(d)}`]),
        ...e.wrong.map((d) => [d, "false", `false: ${now.gallery.classes[d[CLASS]]} ${score(d)}`]),
      ];
      return panel(image, now.rows[m.row].title, m.row, `${e.right.length} true · ${e.wrong.length} false · ${e.missed.length} missed, from ${(threshold(k) / now.gallery.steps).toFixed(2)}${view.own ? `, ${chosenOn[m.chosen_on]}` : ""}`, marks);
    }));
  }

  // Told apart by letter and dashes as well as by colour.
  const marks = { true: ["T", "--true", null, "true: finds a box of its class"], false: ["F", "--false", "7 4", "false: finds none, or one that is taken"], missed: ["M", "--missed", "2 3", "missed: a box without a detection"], truth: ["", "--ink", null, "ground truth"], ignored: ["i", "--soft", "1 4", "ignored: neither asked for nor false"] };

  function box(at, kind, unit) {
    const [letter, tint, dashed] = marks[kind], [x, y, w, h] = at;
    const shared = { x, y, width: Math.max(w, unit), height: Math.max(h, unit), fill: "none", "vector-effect": "non-scaling-stroke" };
    const out = [make("svg:rect", { ...shared, stroke: style("--card"), "stroke-width": 4.5, opacity: 0.75 }), make("svg:rect", { ...shared, stroke: style(tint), "stroke-width": 2, "stroke-dasharray": dashed })];
    if (letter) {
      const size = 11 * unit, above = y > size + unit;
      out.push(make("svg:text", { x: x + (kind === "missed" ? w : 0), y: above ? y - 2 * unit : y + h + size, "font-size": size, "font-weight": 700, "text-anchor": kind === "missed" ? "end" : "start", fill: style(tint), stroke: style("--card"), "stroke-width": 3 * unit, "paint-order": "stroke" }, letter));
    }
    return out;
  }

  function panel(image, title, row, line, drawn) {
    const [width, height] = image.size, unit = Math.max(width, height) / 230;
    const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${line}` });
    if (image.picture) svg.append(make("svg:image", { href: image.picture, width, height }));
    for (const [at, kind, hover] of drawn) {
      const group = make("svg:g", { class: `mark-${kind}` }, ...box(at, kind, unit));
      group.append(make("svg:rect", { x: at[0], y: at[1], width: at[2], height: at[3], fill: "transparent" }));
      group.addEventListener("pointermove", (event) => tip(event, hover));
      group.addEventListener("pointerleave", () => { $("tip").hidden = true; });
      svg.append(group);
    }
    return make("article", { class: "panel" }, make("h3", {}, ...(row === null ? [] : [glyph(row)]), title), make("p", {}, line), svg);
  }

  function tip(event, text) {
    const node = $("tip");
    node.textContent = text; node.hidden = false;
    node.style.left = `${Math.min(event.clientX + 12, innerWidth - node.offsetWidth - 8)}px`;
    node.style.top = `${Math.min(event.clientY + 14, innerHeight - node.offsetHeight - 8)}px`;
  }

  $("key").replaceChildren(...["truth", "true", "false", "missed"].map((kind) => make("li", {}, make("svg:svg", { width: 34, height: 26, viewBox: "0 0 34 26", "aria-hidden": "true" }, ...box([4, 12.5, 26, 12], kind, 0.85)), marks[kind][3])));

  function listSuspects() {
    const g = now.gallery;
    const fill = (id, entries, none, say) => $(id).replaceChildren(...(entries.length ? entries.map((s) => make("li", {}, make("button", { type: "button", onclick: () => { $("class").value = ""; $("size").value = ""; showGallery(); showImage(s.image); $("gallery").scrollIntoView(); } }, say(s)))) : [make("li", { class: "none" }, none)]));
    const where = (s) => `${g.images[s.image].name}: ${g.classes[s.class]}, ${Math.round(s.box[2])} x ${Math.round(s.box[3])} px at ${Math.round(s.box[0])}, ${Math.round(s.box[1])}`;
    fill("unboxed", g.suspects.unboxed, "None.", (s) => `${where(s)}; score ${(s.score / g.steps).toFixed(2)}, seen by ${s.models.map((m) => now.rows[g.models[m].row].title).join(", ")}`);
    fill("missed-by-all", g.suspects.missed_by_all, "None.", (s) => `${where(s)}; ${s.score ? `best score on it ${(s.score / g.steps).toFixed(3)}` : "found at no score"}`);
  }

  for (const id of ["class", "size"]) $(id).addEventListener("change", showGallery);
  $("order").addEventListener("change", () => { view.image = null; showGallery(); $("images").scrollTo(0, 0); });
  $("score").addEventListener("input", () => { view.own = false; view.at = Number($("score").value); showGallery(); });
  $("own").addEventListener("click", () => { view.own = !view.own; showGallery(); });
  $("stage").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const place = view.listed.findIndex((e) => e.i === view.image), last = view.listed.length - 1;
    const to = step ? Math.min(last, Math.max(0, place + step)) : { Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    showImage(view.listed[to].i, true);
  });

  dark.addEventListener("change", () => { chips(); drawCharts(); showGallery(); });
  $("pick").addEventListener("change", (event) => pick(+event.target.value));
  if (content.sections.length) pick(0);
  document.documentElement.dataset.ready = "yes";
})();
