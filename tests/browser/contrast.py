"""WCAG AA contrast of every text on a page, as it is painted: a script for the browser."""

# [texts looked at, those under WCAG AA's 4.5 : 1]: every element that holds text itself, over what is painted behind
# it; the letters of figures, too. Colours are read back from a canvas, so that mixed ones count as they are drawn.
FAINT = """const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const seen = new Map();
    const rgba = (c) => { if (!seen.has(c)) { pen.clearRect(0, 0, 1, 1); pen.fillStyle = c; pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data; seen.set(c, [r, g, b, a / 255]); }
        return seen.get(c); };
    const over = (low, [r, g, b, a]) => [r, g, b].map((x, i) => x * a + low[i] * (1 - a));
    const behind = (e) => { const layers = [];
        for (let at = e; at; at = at.parentElement) { const c = rgba(getComputedStyle(at).backgroundColor);
            layers.push(c); if (c[3] === 1) break; }
        return layers.reverse().reduce(over, [255, 255, 255]); };
    const light = (rgb) => { const [r, g, b] = rgb.slice(0, 3).map((x) => { x /= 255;
        return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    let counted = 0; const found = {};
    for (const e of document.querySelectorAll('body *')) {
        if (['SCRIPT', 'STYLE', 'OPTION'].includes(e.tagName.toUpperCase())) continue;
        if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
        const style = getComputedStyle(e);
        if (style.visibility === 'hidden' || style.display === 'none') continue;
        const ink = e.closest('svg') && e.tagName !== 'title' ? style.fill : style.color;
        const [a, b] = [light(rgba(ink)), light(behind(e.closest('svg')?.parentElement || e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        counted += 1;
        if (ratio < 4.5) found[`${e.tagName}.${e.className} ${e.textContent.slice(0, 20)}`] = ratio;
    }
    return [counted, found]"""
