"""The web chat: what a browser shows of speculative decoding. An extra of its own; decoding knows nothing of it.

answer_settings   what one answer is decoded with          conversation    turns, rounds and numbers of one browser
decoding_thread   rounds of all browsers, one after the other    visitors  conversations by browser, bounded
seen_round        a round in small numbers                 tree_picture    the same as a picture
transcript, panel, beside_plain    texts and numbers as HTML, escaped      web_page    the page itself, gradio
"""
