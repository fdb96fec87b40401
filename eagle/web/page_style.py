"""How the page looks, in light and dark; fonts are those of the visitor's machine, so that none is fetched."""

FONT = ["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "DejaVu Sans", "sans-serif"]
MONO = ["ui-monospace", "DejaVu Sans Mono", "monospace"]

CSS = """
.gradio-container { width: 100%; max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container main, .gradio-container main > .wrap { width: 100%; }
.hsd-title { padding: 2px 0 0; } .hsd-title b { font-size: 1.25em; margin-right: .5em; }
.hsd-title span, .hsd-small, .hsd-note, .hsd-empty, .hsd-tile span { opacity: .72; font-size: .9em; }
#talk { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 12px 14px;
        background: var(--background-fill-primary); }
.hsd-talk { display: flex; flex-direction: column; gap: 10px; }
.hsd-you { align-self: flex-end; max-width: 85%; padding: 7px 12px; border-radius: 12px;
           background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.hsd-answer { line-height: 1.55; }
.hsd-you, .hsd-answer, .hsd-error { white-space: pre-wrap; overflow-wrap: anywhere; }
.hsd-error { color: #b91c1c; } .dark .hsd-error { color: #fca5a5; }
.hsd-talk mark, .hsd-beside mark, .hsd-empty mark {
  background: #d3f5de; color: #064e25; border-radius: 3px; -webkit-box-decoration-break: clone; }
.dark .hsd-talk mark, .dark .hsd-beside mark, .dark .hsd-empty mark { background: #14532d; color: #dcfce7; }
.hsd-cursor { display: inline-block; width: .5em; height: 1em; vertical-align: text-bottom; margin-left: 2px;
              background: var(--body-text-color-subdued); }
.hsd-tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px; }
.hsd-tile { display: flex; flex-direction: column; align-items: center; padding: 7px 2px; border-radius: 10px;
            border: 1px solid var(--border-color-primary); background: var(--background-fill-secondary); }
.hsd-tile b { font-size: 1.3em; font-variant-numeric: tabular-nums; }
.hsd-tile span { font-size: .75em; white-space: nowrap; }
.hsd-small { padding: 4px 2px; min-height: 1.4em; }
.hsd-beside { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; max-height: 320px; overflow-y: auto; }
.hsd-beside > div { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 6px 12px; }
.hsd-verdict { padding: 6px 2px; font-weight: 600; }
.hsd-tree { overflow-x: auto; contain: inline-size; padding: 8px; background: #fff;
            border: 1px solid var(--border-color-primary); border-radius: 10px; }
.hsd-tree img { max-width: none; margin: 0 auto; display: block; }
@media (max-width: 640px) {
  .hsd-beside { grid-template-columns: 1fr; max-height: none; }
  .hsd-tiles { grid-template-columns: repeat(2, 1fr); }
}
"""
