"use strict";
{
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const hover = document.getElementById("hover");

  /* Text alone: names of classes and files come from elsewhere. */
  const show = (_handler, event, _item, value) => {
    hover.hidden = value === null || value === undefined || value === "";
    if (hover.hidden) return;
    const rows = typeof value === "object" ? Object.entries(value) : [["", value]];
    hover.replaceChildren(...rows.map(([name, text]) => {
      const row = document.createElement("div");
      const [label, figure] = [document.createElement("span"), document.createElement("b")];
      label.textContent = name;
      figure.textContent = text;
      row.append(label, figure);
      return row;
    }));
    const { width, height } = hover.getBoundingClientRect();
    hover.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - width - 8))}px`;
    hover.style.top = `${Math.max(8, Math.min(event.clientY + 12, innerHeight - height - 8))}px`;
  };

  /* The recipe and commands of a variant, below the chart that it was chosen in. */
  const pick = (figure, id) => {
    const card = document.getElementById(id), panel = figure.querySelector(".picked");
    const name = document.createElement("p"), link = document.createElement("a");
    name.append(card.querySelector("b").cloneNode(true), " ", card.querySelector("summary span").textContent);
    link.href = `#${id}`;
    link.textContent = "everything known of it";
    panel.replaceChildren(name, card.querySelector(".recipe").cloneNode(true), link);
    panel.hidden = false;
    panel.scrollIntoView({ block: "nearest" });
  };

  const draw = async (figure) => {
    figure.classList.add("drawn"); /* First: a hidden container has no width. */
    try {
      const { view } = await vegaEmbed(figure.querySelector(".live"), charts[figure.id], {
        mode: "vega", renderer: "svg", actions: false, defaultStyle: false, tooltip: show,
        ast: true, /* Interpreted: the page's policy permits no code made at run time. */
      });
      view.addEventListener("click", (_event, item) => {
        const card = item && item.datum && item.datum.card;
        if (card && figure.querySelector(".picked")) pick(figure, card);
      });
    } catch (error) {
      figure.classList.remove("drawn"); /* The image stays. */
      throw error;
    }
  };

  /* A chart is drawn when it comes near the window. */
  const watcher = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "600px" });
  for (const figure of document.querySelectorAll("figure.chart")) watcher.observe(figure);

  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (!target || target.tagName !== "DETAILS") return;
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus({ preventScroll: true });
  };
  addEventListener("hashchange", open);
  open();
}
