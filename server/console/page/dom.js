// Makes elements. Texts become text nodes: nothing that comes from a server or a model is ever parsed as markup.

export const $ = (id) => document.getElementById(id);

// h makes an element: attributes by name, "on..." as listeners, "class" and "text"; children are nodes or texts.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const svgSpace = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(svgSpace, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

// setText changes a text only if it is another one, so that screen readers are not told the same again.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function cssVariable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export const calm = matchMedia("(prefers-reduced-motion: reduce)");
