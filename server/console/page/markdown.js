// Markdown as elements, for the text of models: paragraphs, headings, lists, quotes, code, bold, italic and links. Everything else
// stays the text that it is. There is no way from here to markup: texts become text nodes, and links lead to http and https only.

import { h } from "./dom.js";

export function markdown(text) {
  const out = [];
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  for (let i = 0; i < lines.length; ) {
    const fence = /^ {0,3}(```+|~~~+)(.*)$/.exec(lines[i]);
    if (fence) {
      const body = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(fence[1]); i++) body.push(lines[i]);
      i++;
      out.push(h("pre", { tabindex: "0" }, h("code", {}, body.join("\n"))));
      continue;
    }
    if (lines[i].trim() === "") {
      i++;
      continue;
    }
    const heading = /^(#{1,6})\s+(.*)$/.exec(lines[i]);
    if (heading) {
      out.push(h("p", { class: "heading" }, inline(heading[2])));
      i++;
      continue;
    }
    const kind = blockKind(lines[i]);
    const block = [];
    do block.push(lines[i++]);
    while (i < lines.length && lines[i].trim() !== "" && blockKind(lines[i]) === kind && !/^ {0,3}(```|~~~|#{1,6}\s)/.test(lines[i]));
    out.push(blocks[kind](block));
  }
  return out;
}

const bullet = /^\s*[-*+]\s+/;
const number = /^\s*\d{1,9}[.)]\s+/;
const quote = /^\s*>\s?/;

function blockKind(line) {
  if (bullet.test(line)) return "ul";
  if (number.test(line)) return "ol";
  return quote.test(line) ? "blockquote" : "p";
}

const blocks = {
  ul: (lines) => h("ul", {}, lines.map((l) => h("li", {}, inline(l.replace(bullet, ""))))),
  ol: (lines) => h("ol", {}, lines.map((l) => h("li", {}, inline(l.replace(number, ""))))),
  blockquote: (lines) => h("blockquote", {}, inline(lines.map((l) => l.replace(quote, "")).join("\n"))),
  p: (lines) => h("p", {}, inline(lines.join("\n"))),
};

// The alternatives begin with different characters and have bounds, so that no text takes long.
const spans = /`([^`\n]{1,2000})`|\*\*([^*\n]{1,2000})\*\*|\*([^*\s][^*\n]{0,2000})\*|\[([^\]\n]{1,500})\]\((https?:\/\/[^\s)]{1,2000})\)/g;

function inline(text) {
  const out = [];
  let from = 0;
  for (const m of text.matchAll(spans)) {
    out.push(text.slice(from, m.index));
    from = m.index + m[0].length;
    if (m[1] !== undefined) out.push(h("code", {}, m[1]));
    else if (m[2] !== undefined) out.push(h("strong", {}, m[2]));
    else if (m[3] !== undefined) out.push(h("em", {}, m[3]));
    else out.push(h("a", { href: m[5], rel: "noopener noreferrer nofollow", target: "_blank", title: m[5] }, m[4]));
  }
  out.push(text.slice(from));
  return out;
}
