"""The stages between sources and a prepared corpus; ``pretrain/preparation/prepare.py`` runs them in order.

    read     (reading.py)    a part of a source  -> clean texts, kept for the next time
    examine  (examining.py)  clean texts         -> what each record shows alone: form, test items, keys
    judge    (judging.py)    all keys            -> kept, held out, or dropped, and why
    encode   (encoding.py)   kept texts          -> shards of tokens

Work is cut where the data says, never by the number of workers, and every file is written under another name and
renamed when whole: any number of workers gives the same bytes, and a killed preparation goes on where it stopped.
"""
