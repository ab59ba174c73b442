// Run in the page by test_browser.py: each returns what is wrong, an empty list for nothing.
({
  // Contrast of every visible text, after WCAG 2.2 (1.4.3): 4.5, or 3 for large type. Backgrounds are
  // looked up through the element's ancestors; of SVG texts, the shapes drawn before them are.
  contrast: () => {
    const parse = (text) => {
      const found = text.match(/[\d.]+/g);
      return found ? found.map(Number) : [0, 0, 0, 0];
    };
    const light = (color) => {
      const part = color.slice(0, 3).map((value) => {
        const share = value / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
    };
    const over = (top, below) => {
      const alpha = top[3] ?? 1;
      return [0, 1, 2].map((i) => top[i] * alpha + below[i] * (1 - alpha));
    };
    const background = (element) => {
      const layers = [];
      for (let each = element; each; each = each.parentElement) {
        const color = parse(getComputedStyle(each).backgroundColor);
        layers.push(color);
        if ((color[3] ?? 1) === 1) break;
      }
      return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const behind = (text) => {
      const box = text.getBoundingClientRect();
      const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
      let color = background(text.ownerSVGElement.parentElement);
      for (const shape of text.ownerSVGElement.querySelectorAll("rect")) {
        const area = shape.getBoundingClientRect();
        const style = getComputedStyle(shape);
        const inside = x > area.left && x < area.right && y > area.top && y < area.bottom;
        const before = shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
        if (inside && before && style.fill !== "none") {
          const fill = parse(style.fill);
          color = over([...fill.slice(0, 3), (fill[3] ?? 1) * style.fillOpacity * style.opacity], color);
        }
      }
      return color;
    };
    const low = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
      if (["TITLE", "DESC", "OPTION", "SCRIPT"].includes(element.tagName.toUpperCase())) continue;
      if (element.closest(".hidden, .skip, datalist")) continue;
      const style = getComputedStyle(element);
      const inDrawing = element.ownerSVGElement !== undefined && element.ownerSVGElement !== null;
      const paint = parse(inDrawing ? style.fill : style.color);
      const ground = inDrawing ? behind(element) : background(element);
      const [a, b] = [light(over(paint, ground)), light(ground)];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
      if (ratio < (large ? 3 : 4.5)) {
        low.push(`${ratio.toFixed(2)} "${walker.currentNode.textContent.trim().slice(0, 40)}" `
          + `${element.tagName}.${element.getAttribute("class") ?? ""}`);
      }
    }
    return low;
  },

  // What a screen reader needs: names of controls, headers of tables, one main, a language, alt texts.
  names: () => {
    const problems = [];
    const named = (e) => (e.getAttribute("aria-label")
      || (e.getAttribute("aria-labelledby") ?? "").split(" ")
        .map((id) => document.getElementById(id)?.textContent ?? "").join("")
      || [...(e.labels ?? [])].map((label) => label.textContent).join("")
      || e.textContent || "").trim();
    for (const e of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, summary, progress, [role=region], [role=group]")) {
      if (e.checkVisibility() && !named(e)) problems.push("no name: " + e.outerHTML.slice(0, 120));
    }
    for (const svg of document.querySelectorAll("main svg[role]")) {
      if (!svg.querySelector("title")?.textContent && !svg.getAttribute("aria-label")) problems.push("svg without title");
    }
    for (const table of document.querySelectorAll("main table")) {
      if (!table.querySelector("thead th")) problems.push("table without headers");
    }
    if (document.querySelectorAll("main").length !== 1) problems.push("not one main");
    if (!document.documentElement.lang) problems.push("no language");
    if (!document.title) problems.push("no title");
    if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
    for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
      for (const id of (e.getAttribute("aria-labelledby") ?? e.getAttribute("aria-describedby")).split(" ")) {
        if (!document.getElementById(id)) problems.push("points nowhere: " + id);
      }
    }
    for (const e of document.querySelectorAll("[tabindex]")) {
      if (e.tabIndex > 0) problems.push("positive tabindex");
    }
    return problems;
  },

  // What has the focus: its place in the document's order, and whether one can see that it has it.
  focused: () => {
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const box = e.getBoundingClientRect();
    const shape = e.ownerSVGElement ? e.querySelector("rect:last-of-type") : null;
    const style = getComputedStyle(e);
    const visible = shape
      ? parseFloat(getComputedStyle(shape).strokeWidth) >= 3
      : style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return {
      place: [...document.querySelectorAll("*")].indexOf(e),
      visible: visible && (box.width > 0 || e.ownerSVGElement !== null),
      words: `${e.tagName} ${(e.textContent || e.name || "").trim().slice(0, 40)}`,
    };
  },

  // Nothing may stick out of a narrow screen, and fingers need targets of 24 pixels (WCAG 2.5.8).
  narrow: () => {
    const problems = [];
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth > width) problems.push("wider than the screen");
    for (const e of document.querySelectorAll("header button, header a, main button, summary, input:not([type=hidden], [type=checkbox]), select")) {
      const box = e.getBoundingClientRect();
      if (e.checkVisibility() && !e.closest("thead, .skip") && !e.classList.contains("skip")
          && (box.height < 24 || box.width < 24)) problems.push("small: " + e.outerHTML.slice(0, 90));
    }
    return problems;
  },
})
