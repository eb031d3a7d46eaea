"""The words of the review grammar: what can be reviewed, what can be said about it, and the frames that say it.

Conventions of the tables, which ``reviews.py`` resolves:

* ``+the photos``: the leading plus marks a plural noun phrase.
* ``tend[s]``: the bracket is kept after a singular subject and dropped after a plural one.
* ``a(n) e-reader``: the article that fits the next word.
* ``{s}`` subject, ``{be}`` is/are, ``{was}`` was/were, ``{a}`` adjective, ``{ad}`` adjective with its strength adverb,
  ``{vp}`` verb phrase in the base form, ``{vps}`` the same agreeing with the subject.

All adjectives can be graded ("extremely ...") and all verb phrases can be negated, because every frame may meet every
predicate. No text may contain the name of an aspect that it is not about: a reader finds the aspects by their names.
"""

from typing import Final, Literal, NamedTuple

Domain = Literal["product", "film"]
DOMAINS: Final[tuple[Domain, Domain]] = ("product", "film")


class Aspect(NamedTuple):
    """One thing that can be good or bad about an item."""

    names: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    good_acts: tuple[str, ...]
    bad_acts: tuple[str, ...]


class Item(NamedTuple):
    """A kind of product or film: its names and the aspects it has."""

    names: tuple[str, ...]
    aspects: tuple[str, ...]


class SentenceFrame(NamedTuple):
    """A clause with a hole for a predicate.

    Attributes:
        text: The clause, lower case, without a full stop.
        affirms: Whether it claims the predicate or denies it.
        strengths: The strengths (1 mild to 3 strong) it can express.
        goods: The polarities of the predicate that it takes.
        embeds: Whether it can stand inside another clause ("although ...").
    """

    text: str
    affirms: bool
    strengths: tuple[int, ...] = (1, 2, 3)
    goods: tuple[bool, ...] = (True, False)
    embeds: bool = True


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _aspect(names: str, good: str, bad: str, good_acts: str, bad_acts: str) -> Aspect:
    return Aspect(_words(names), _words(good), _words(bad), _words(good_acts), _words(bad_acts))


def _item(names: str, aspects: str) -> Item:
    return Item(_words(names), tuple(aspects.split()))


ASPECTS: Final[dict[str, Aspect]] = {
    # Products.
    "battery": _aspect(
        "the battery, the battery life, the endurance, the stamina",
        "dependable, reassuring, generous, decent",
        "feeble, unreliable, inadequate, pitiful",
        "see me through a long day, cover a whole weekend, keep up with heavy use",
        "run out before noon, let me down on long trips, give up far too early",
    ),
    "screen": _aspect(
        "the screen, the display, the panel",
        "crisp, vivid, bright, sharp",
        "blurry, dim, washed-out, grainy",
        "stay readable in sunlight, do justice to photographs, show every detail",
        "tire the eyes, flicker in the evening, reflect every lamp",
    ),
    "photos": _aspect(
        "+the photos, +the pictures, the image quality, +the shots",
        "crisp, vivid, lifelike, sharp",
        "blurry, grainy, washed-out, lifeless",
        "hold up when enlarged, bear close inspection, stand comparison with a dearer model",
        "suffer in low light, turn to mush when enlarged, fade towards the edges",
    ),
    "sound": _aspect(
        "the sound, the audio, the tone, the acoustic side",
        "warm, clear, rich, balanced",
        "tinny, muffled, harsh, thin",
        "fill the room, stay clean at high volume, bring voices to life",
        "distort at high volume, rattle on low notes, tire the ear",
    ),
    "speed": _aspect(
        "the processor, the software, the operating system, the electronic side",
        "quick, nimble, fluid, responsive",
        "sluggish, slow, jerky, unresponsive",
        "keep up with everything I do, react at once, cope with several tasks",
        "keep me waiting, freeze without warning, stumble over simple tasks",
    ),
    "build": _aspect(
        "the build quality, the workmanship, the construction, the finish",
        "solid, sturdy, robust, careful",
        "flimsy, shoddy, sloppy, careless",
        "withstand rough handling, inspire confidence, promise a long life",
        "show its age already, feel cheap in the hand, give way under strain",
    ),
    "price": _aspect(
        "the price, the cost, the asking price, the sum they charge",
        "fair, reasonable, modest, sensible",
        "steep, excessive, unreasonable, inflated",
        "match what you get, suit a small budget, compare well with other shops",
        "scare off most buyers, put a hole in my budget, send bargain hunters elsewhere",
    ),
    "looks": _aspect(
        "the design, the styling, the look, the appearance",
        "elegant, attractive, tasteful, stylish",
        "ugly, clumsy, dated, tasteless",
        "draw admiring glances, please the eye, stand the test of time",
        "offend the eye, cheapen the whole thing, put visitors off",
    ),
    "size": _aspect(
        "the size, the shape, +the dimensions, +the proportions",
        "handy, practical, convenient, well-chosen",
        "unwieldy, awkward, impractical, cumbersome",
        "make it easy to store, suit cramped spaces, make life easier",
        "make it hard to store, get in the way, cause problems in tight corners",
    ),
    "controls": _aspect(
        "+the controls, the handling, the operation, +the buttons",
        "simple, intuitive, straightforward, logical",
        "confusing, fiddly, baffling, complicated",
        "make sense at once, become second nature, suit complete beginners",
        "drive me mad, call for endless patience, defy common sense",
    ),
    "manual": _aspect(
        "+the instructions, the manual, the user guide, the documentation",
        "clear, helpful, thorough, readable",
        "vague, useless, muddled, incomplete",
        "answer every question, lead you through every step, spare you a lot of trouble",
        "skip important steps, leave you guessing, confuse everybody",
    ),
    "support": _aspect(
        "the customer service, the support team, the help desk, the after-sales team",
        "friendly, prompt, competent, obliging",
        "rude, slow, clueless, unhelpful",
        "reply within hours, solve problems quickly, take complaints seriously",
        "ignore my messages, pass the buck, keep callers waiting",
    ),
    "motor": _aspect(
        "the motor, the mechanism, the drive unit, the machinery",
        "quiet, discreet, smooth, gentle",
        "noisy, loud, shrill, rough",
        "purr along softly, leave the neighbours in peace, work without a fuss",
        "wake the whole house, drown out conversation, whine under load",
    ),
    "cleaning": _aspect(
        "the cleaning, the upkeep, the maintenance, the care it needs",
        "easy, quick, effortless, painless",
        "tedious, messy, laborious, troublesome",
        "take only a minute, fit into a busy day, call for nothing but water",
        "take forever, eat up my evenings, require special tools",
    ),
    "comfort": _aspect(
        "the padding, the cushioning, the lining, +the soft parts",
        "pleasant, comfortable, supple, agreeable",
        "stiff, scratchy, lumpy, uncomfortable",
        "stay pleasant for hours, adapt to the body, feel right from the first day",
        "rub after an hour, press in the wrong places, cause aches by the evening",
    ),
    "space": _aspect(
        "the interior, the inside, the main compartment, the storage area",
        "roomy, spacious, generous, well-planned",
        "cramped, poky, tight, badly planned",
        "take everything I need, swallow a mountain of things, leave room to spare",
        "fill up too soon, waste a lot of space, leave no room for extras",
    ),
    "results": _aspect(
        "+the results, the end result, the outcome, the output",
        "consistent, even, reliable, accurate",
        "patchy, uneven, erratic, inaccurate",
        "live up to the advertising, satisfy a demanding user, match what an expert could do",
        "vary from day to day, fall short of the advertising, depend on luck",
    ),
    "packaging": _aspect(
        "the packaging, the box, the wrapping, the carton",
        "sturdy, sensible, tidy, well-designed",
        "wasteful, flimsy, excessive, shabby",
        "protect everything inside, go straight into the recycling, open without a knife",
        "tear on the slightest contact, fill half a dustbin, resist every attempt to open it",
    ),
    # Films.
    "acting": _aspect(
        "the acting, +the performances, the cast, +the actors",
        "convincing, natural, lively, credible",
        "wooden, lifeless, unconvincing, stiff",
        "ring true, hold the attention, bring every scene to life",
        "descend into caricature, leave me cold, belong in a school play",
    ),
    "plot": _aspect(
        "the plot, the story, the storyline, the narrative",
        "gripping, clever, original, coherent",
        "predictable, muddled, thin, far-fetched",
        "keep you guessing, hold together to the last minute, draw you in",
        "fall apart half-way, run out of ideas, go round in circles",
    ),
    "pacing": _aspect(
        "the pacing, the tempo, the rhythm, the pace",
        "brisk, lively, assured, well-judged",
        "sluggish, plodding, uneven, tiresome",
        "build real tension, keep everyone awake, carry you along",
        "test your patience, flag in the middle, send people to sleep",
    ),
    "script": _aspect(
        "the script, the dialogue, the writing, +the lines",
        "witty, sharp, subtle, intelligent",
        "clumsy, stilted, banal, trite",
        "sparkle with wit, sound like real speech, leave room for silence",
        "state the obvious, make you wince, borrow from better films",
    ),
    "camera": _aspect(
        "the camerawork, the photography, +the images, the cinematography",
        "beautiful, striking, atmospheric, inventive",
        "drab, murky, dreary, flat",
        "make the most of every location, linger in the memory, reveal something new in every shot",
        "make you seasick, look like cheap television, get on your nerves",
    ),
    "music": _aspect(
        "the music, the score, the soundtrack, +the melodies",
        "haunting, stirring, memorable, delicate",
        "intrusive, bland, repetitive, syrupy",
        "lift every scene, stay in the ear, deepen the mood",
        "smother every emotion, grate after ten minutes, tell you what to feel",
    ),
    "ending": _aspect(
        "the ending, the finale, the conclusion, the last act",
        "satisfying, moving, fitting, powerful",
        "rushed, contrived, abrupt, far-fetched",
        "tie everything together, reward your patience, leave you speechless",
        "come out of nowhere, ruin what went before, leave too much open",
    ),
    "characters": _aspect(
        "+the characters, +the people on screen, +the main figures, +the protagonists",
        "believable, rounded, likeable, complex",
        "shallow, one-dimensional, implausible, unlikeable",
        "win your sympathy, grow as time goes by, feel like real people",
        "behave like puppets, remain strangers to the end, try your patience",
    ),
    "direction": _aspect(
        "the direction, the staging, the film-making, the director's work",
        "assured, imaginative, confident, elegant",
        "clumsy, heavy-handed, timid, uninspired",
        "trust the audience, strike the right note, show a sure hand",
        "miss the point, lose sight of what matters, betray a lack of ideas",
    ),
    "effects": _aspect(
        "+the effects, +the special effects, +the visual tricks, the computer imagery",
        "seamless, dazzling, convincing, inventive",
        "cheap, dated, clumsy, fake",
        "take your breath away, serve a purpose, stand up to scrutiny",
        "look home-made, distract from what matters, spoil the illusion",
    ),
    "sets": _aspect(
        "+the sets, the production design, +the backdrops, the set design",
        "rich, authentic, detailed, elegant",
        "shabby, artificial, bare, cheap",
        "transport you to another world, create a mood, look lived-in",
        "look like cardboard, remind you of a theme park, break the spell",
    ),
    "humour": _aspect(
        "the humour, +the jokes, +the gags, the comic side",
        "fresh, sharp, warm, clever",
        "stale, crude, forced, laboured",
        "make the whole room laugh, hit home, catch you off guard",
        "fall flat, wear thin, rely on insults",
    ),
    "editing": _aspect(
        "the editing, the cutting, the assembly of the scenes, the work of the cutter",
        "crisp, fluid, precise, elegant",
        "choppy, careless, messy, confusing",
        "make every scene count, keep things clear, heighten the suspense",
        "break up every scene, lose the thread, cause headaches",
    ),
    "message": _aspect(
        "the message, the theme, the underlying idea, the moral",
        "thoughtful, relevant, honest, timely",
        "preachy, naive, muddled, simplistic",
        "make you think, stay with you for days, touch a nerve",
        "insult your intelligence, get lost along the way, sound like a sermon",
    ),
}

GENERIC_GOOD: Final = _words("good, impressive, satisfactory, pleasing, admirable, commendable")
GENERIC_BAD: Final = _words("bad, disappointing, dismal, irritating, unsatisfactory, off-putting")

_ANY = "build price looks size manual support packaging "
_TECH = _ANY + "controls "
_FILM = "acting plot pacing script camera music ending characters direction editing message "

ITEMS: Final[dict[Domain, dict[str, Item]]] = {
    "product": {
        "phone": _item("phone, handset, mobile", _TECH + "battery screen photos sound speed"),
        "laptop": _item("laptop, notebook computer, portable computer", _TECH + "battery screen sound speed"),
        "reader": _item("e-reader, ebook reader, reading device", _TECH + "battery screen speed"),
        "television": _item("television, TV set, telly", _TECH + "screen sound speed"),
        "camera": _item("camera, compact camera, digital camera", _TECH + "battery photos speed"),
        "headset": _item("headset, pair of headphones, set of headphones", _TECH + "battery sound comfort"),
        "speaker": _item("speaker, loudspeaker, wireless speaker", _TECH + "battery sound"),
        "vacuum": _item("vacuum cleaner, hoover, vacuum", _TECH + "motor cleaning results"),
        "coffee": _item("coffee machine, coffee maker, espresso machine", _TECH + "motor cleaning results"),
        "blender": _item("blender, mixer, smoothie maker", _TECH + "motor cleaning results"),
        "kettle": _item("kettle, electric kettle, water boiler", _TECH + "cleaning"),
        "washer": _item("washing machine, washer, front loader", _TECH + "motor cleaning results"),
        "printer": _item("printer, office printer, desktop printer", _TECH + "motor results speed"),
        "drill": _item("drill, power drill, cordless drill", _TECH + "battery motor results"),
        "backpack": _item("backpack, rucksack, day pack", _ANY + "space comfort cleaning"),
        "suitcase": _item("suitcase, travel case, piece of luggage", _ANY + "space cleaning"),
        "jacket": _item("jacket, coat, anorak", _ANY + "comfort cleaning"),
        "chair": _item("office chair, desk chair, swivel chair", _ANY + "comfort cleaning"),
        "mattress": _item("mattress, foam mattress, sprung mattress", _ANY + "comfort cleaning"),
        "watch": _item("watch, wristwatch, timepiece", _TECH + "battery"),
    },
    "film": {
        "thriller": _item("thriller, suspense film, suspense movie", _FILM),
        "comedy": _item("comedy, comic film, comic movie", _FILM + "humour"),
        "western": _item("western, cowboy film, frontier tale", _FILM + "sets"),
        "documentary": _item("documentary, factual film, non-fiction film", "plot pacing camera music ending editing"),
        "horror": _item("horror film, scary movie, chiller", _FILM + "effects"),
        "romance": _item("romance, love story, romantic film", _FILM + "humour"),
        "war": _item("war film, combat movie, battlefield drama", _FILM + "effects sets"),
        "musical": _item("musical, song-and-dance film, movie musical", _FILM + "sets humour"),
        "scifi": _item("science-fiction film, space movie, futuristic adventure", _FILM + "effects sets"),
        "cartoon": _item(
            "animated film, cartoon, animation", "plot pacing script music ending characters humour message"
        ),
        "caper": _item("heist film, caper, robbery film", _FILM + "humour"),
        "crime": _item("crime film, gangster movie, underworld drama", _FILM),
        "biopic": _item("biopic, film biography, screen biography", _FILM + "sets"),
        "fantasy": _item("fantasy film, fairy tale, sword-and-sorcery movie", _FILM + "effects sets"),
        "superhero": _item("superhero film, comic-book adaptation, costumed-hero movie", _FILM + "effects humour"),
        "epic": _item("historical epic, period piece, costume drama", _FILM + "sets"),
        "sequel": _item("sequel, second instalment, follow-up", _FILM + "effects"),
        "mystery": _item("mystery, whodunit, detective film", _FILM),
    },
}

# Neutral circumstances; they give a record something else than opinions to agree on.
OCCASIONS: Final[dict[Domain, dict[str, tuple[str, ...]]]] = {
    "product": {
        "gift": (
            "I bought this {item} as a present for my sister",
            "my sister was given this {item} for her birthday, and I use it too",
            "this {item} was meant as a surprise for a sibling of mine",
        ),
        "sale": (
            "this {item} was reduced in the spring sales, so I took one home",
            "I came across this {item} on a clearance table at Easter",
            "a discount in April is why I own this {item}",
        ),
        "replacement": (
            "my old one broke after nine years, and this {item} took its place",
            "this {item} is the successor to one that had finally died on me",
            "I needed a new {item} because the previous one gave out after almost a decade",
        ),
        "work": (
            "we use this {item} at the office every day",
            "this {item} was ordered for my workplace and is in constant use there",
            "at my company a dozen people share this {item}",
        ),
        "move": (
            "this {item} was the first thing I bought after moving house",
            "when we had changed address, a new {item} was needed at once",
            "unpacking in our new home, we noticed that we had no {item}, and so we ordered this one",
        ),
        "month": (
            "I have owned this {item} for about a month",
            "it is some four weeks since this {item} arrived",
            "roughly thirty days have passed since I unpacked this {item}",
        ),
        "parents": (
            "I chose this {item} for my parents, who are both over eighty",
            "my mother and father, neither of them young, now live with this {item}",
            "this {item} went to an elderly couple, namely Mum and Dad",
        ),
        "student": (
            "as a student I had to save up for this {item}",
            "between two terms at university I put my wages into this {item}",
            "it took a semester of washing dishes to afford this {item}",
        ),
        "second": (
            "this is the second {item} of this make that I have had",
            "I already had an earlier {item} from the same firm",
            "after one {item} by this manufacturer I went for another",
        ),
        "loan": (
            "a neighbour lent me this {item} for a fortnight",
            "this {item} belongs to the people next door, who let me try it for two weeks",
            "for fourteen days I had this {item} on loan from across the street",
        ),
    },
    "film": {
        "cinema": (
            "I saw this {item} at the cinema on its opening night",
            "we had tickets for the first showing of this {item}",
            "on the day of its release I was in the theatre for this {item}",
        ),
        "plane": (
            "I watched this {item} on a flight to Canada",
            "this {item} was part of the in-flight programme on the way to Toronto",
            "somewhere above the Atlantic I put on this {item}",
        ),
        "children": (
            "we watched this {item} with the children on a Sunday",
            "at the weekend our two kids sat through this {item} with us",
            "this {item} was on when the whole family, little ones included, gathered on the sofa",
        ),
        "festival": (
            "this {item} was shown at a small festival in our town",
            "a local film week put this {item} on its programme",
            "I caught this {item} when the annual festival came round",
        ),
        "home": (
            "I streamed this {item} at home on a rainy evening",
            "it was pouring outside, so we stayed in and put on this {item}",
            "on a wet night this {item} found its way to our living room",
        ),
        "rewatch": (
            "I have now watched this {item} twice",
            "this {item} and I have met on two occasions",
            "having seen this {item} a second time, I can finally judge it",
        ),
        "club": (
            "our film club discussed this {item} last week",
            "this {item} was the choice of the group I meet with every Thursday",
            "a few days ago a circle of film lovers picked this {item} for debate",
        ),
        "book": (
            "I knew the book long before this {item} was made",
            "this {item} is based on a novel that I read years ago",
            "the bestseller behind this {item} has been on my shelf for ages",
        ),
        "date": (
            "my girlfriend and I went to see this {item} on our first date",
            "this {item} was how a new couple, the two of us, spent an evening",
            "on our very first evening out together she and I picked this {item}",
        ),
        "teacher": (
            "our teacher showed us this {item} in class",
            "this {item} was part of a history lesson at my school",
            "in the last week of term the whole form was given this {item} to watch",
        ),
    },
}
INTROS: Final = (
    "here is what I think of this {item}",
    "this is about a(n) {item}",
    "a few words on this {item}",
    "what follows concerns a(n) {item}",
    "I have spent some time with this {item}",
    "I was asked for my view of this {item}",
    "so this is the {item} that everybody talks about",
    "there are plenty of opinions about this {item}, and here is mine",
    "let me add a note on this {item}",
    "this {item} needs only a short comment",
)

MILD: Final = _words("fairly, rather, moderately, quite, somewhat")
PLAIN: Final = _words("clearly, really, genuinely, decidedly, distinctly")
STRONG: Final = _words("extremely, remarkably, exceptionally, incredibly, wonderfully, uncommonly")
STRONG_BAD: Final = _words("extremely, remarkably, exceptionally, incredibly, painfully, uncommonly")

_G, _B = (True,), (False,)

ADJECTIVE_FRAMES: Final = (
    SentenceFrame("{s} {be} {ad}", True),
    SentenceFrame("I found {s} {ad}", True),
    SentenceFrame("{s} struck me as {ad}", True),
    SentenceFrame("{s} turned out to be {ad}", True),
    SentenceFrame("{s} proved {ad}", True),
    SentenceFrame("to my mind {s} {be} {ad}", True, embeds=False),
    SentenceFrame("I would call {s} {ad}", True),
    SentenceFrame("{s} came across as {ad}", True),
    SentenceFrame("I remember {s} as {ad}", True),
    SentenceFrame("I thought of {s} as {ad}", True),
    SentenceFrame("I consider {s} {ad}", True),
    SentenceFrame("in my eyes {s} {be} {ad}", True, embeds=False),
    SentenceFrame("{s} seemed {ad} to me", True),
    SentenceFrame("{s} {be}, I think, {ad}", True),
    SentenceFrame("one has to admit that {s} {be} {ad}", True, embeds=False),
    SentenceFrame("there is no denying that {s} {be} {ad}", True, embeds=False),
    SentenceFrame("I would not dispute that {s} {be} {ad}", True, embeds=False),
    SentenceFrame("I cannot pretend that {s} {be} not {a}", True, (2,), embeds=False),
    SentenceFrame("it would be wrong to say that {s} {be} not {a}", True, (1, 2), embeds=False),
    SentenceFrame("I would never claim that {s} {be} not {a}", True, (2, 3), embeds=False),
    SentenceFrame("nobody can tell me that {s} {be} not {a}", True, (2, 3), embeds=False),
    SentenceFrame("nobody would describe {s} as anything other than {a}", True, (2, 3)),
    SentenceFrame("{s} {be} nothing if not {a}", True, (3,)),
    SentenceFrame("{s} {be} never less than {a}", True, (3,)),
    SentenceFrame("I had not expected {s} to be so {a}", True, (3,)),
    SentenceFrame("what I will not forget is how {a} {s} {be}", True, (3,), embeds=False),
    SentenceFrame("{s} {be} every bit as {a} as I had hoped", True, (2, 3), _G),
    SentenceFrame("{s} {be} every bit as {a} as I had feared", True, (2, 3), _B),
    SentenceFrame("{s} {be} as {a} as one could wish", True, (3,), _G),
    SentenceFrame("{s} will delight anyone who longs for something {a}", True, (2,)),
    SentenceFrame("I expected {s} to be {a}, and I was right", True, (2,), embeds=False),
    SentenceFrame("I tried to persuade myself that {s} {be} not {a}, without success", True, (2,), embeds=False),
    SentenceFrame("some people say that {s} {be} {ad}, and they are right", True, embeds=False),
    SentenceFrame("if you ask whether {s} {be} {a}, the answer is yes", True, (2, 3), embeds=False),
    SentenceFrame("when others describe {s} as {a}, I cannot disagree", True, (2,), embeds=False),
    SentenceFrame("{s} {be} not particularly {a}", False, (1,)),
    SentenceFrame("{s} {be} not exactly {a}", False, (1,)),
    SentenceFrame("I did not find {s} especially {a}", False, (1,)),
    SentenceFrame("{s} {be} none too {a}", False, (1,)),
    SentenceFrame("I would hesitate to call {s} {a}", False, (1,)),
    SentenceFrame("{s} did not strike me as very {a}", False, (1,)),
    SentenceFrame("it would be going a little too far to call {s} {a}", False, (1,), embeds=False),
    SentenceFrame("{s} {be} not {a}", False, (2,)),
    SentenceFrame("{s} {be} hardly {a}", False, (1, 2)),
    SentenceFrame("I would not call {s} {a}", False, (2,)),
    SentenceFrame("I cannot say that {s} {be} {a}", False, (1, 2)),
    SentenceFrame("nobody could describe {s} as {a}", False, (2, 3)),
    SentenceFrame("I do not agree that {s} {be} {a}", False, (2,), embeds=False),
    SentenceFrame("it is not true that {s} {be} {a}", False, (2,), embeds=False),
    SentenceFrame("there was no moment when {s} seemed {a}", False, (2, 3)),
    SentenceFrame("I never had the impression that {s} {was} {a}", False, (2, 3)),
    SentenceFrame("I fail to see how anyone could call {s} {a}", False, (2, 3), embeds=False),
    SentenceFrame("{s} {be} not as {a} as I had hoped", False, (1, 2), _G),
    SentenceFrame("{s} {be} not as {a} as I had feared", False, (1, 2), _B),
    SentenceFrame("{s} {be} not nearly as {a} as I had hoped", False, (3,), _G),
    SentenceFrame("{s} {be} not nearly as {a} as I had feared", False, (3,), _B),
    SentenceFrame("{s} {be} anything but {a}", False, (3,)),
    SentenceFrame("{s} {be} far from {a}", False, (3,)),
    SentenceFrame("{s} {be} not in the least {a}", False, (3,)),
    SentenceFrame("{s} {be} by no means {a}", False, (3,)),
    SentenceFrame("it would be absurd to call {s} {a}", False, (3,), embeds=False),
    SentenceFrame("under no circumstances would I call {s} {a}", False, (3,), embeds=False),
    SentenceFrame("at no point {be} {s} even remotely {a}", False, (3,)),
    SentenceFrame("I expected {s} to be {a}, and I was wrong", False, (2,), embeds=False),
    SentenceFrame("I tried to persuade myself that {s} {be} {a}, without success", False, (2,), embeds=False),
    SentenceFrame("some people say that {s} {be} {ad}, and they are wrong", False, (2, 3), embeds=False),
    SentenceFrame("if you ask whether {s} {be} {a}, the answer is no", False, (2, 3), embeds=False),
    SentenceFrame("when others describe {s} as {a}, I cannot agree", False, (2,), embeds=False),
)

VERB_FRAMES: Final = (
    SentenceFrame("{s} tend[s] to {vp}", True, (1,)),
    SentenceFrame("{s} generally {vps}", True, (1,)),
    SentenceFrame("more often than not {s} {vps}", True, (1,), embeds=False),
    SentenceFrame("{s} {vps}", True, (2,)),
    SentenceFrame("you will find that {s} {vps}", True, (1, 2), embeds=False),
    SentenceFrame("I noticed that {s} {vps}", True, (1, 2), embeds=False),
    SentenceFrame("{s} manage[s] to {vp}", True, (1, 2)),
    SentenceFrame("nobody can claim that {s} do[es] not {vp}", True, (2, 3), embeds=False),
    SentenceFrame("I cannot pretend that {s} do[es] not {vp}", True, (1, 2), embeds=False),
    SentenceFrame("I have yet to meet anyone who thinks that {s} do[es] not {vp}", True, (2, 3), embeds=False),
    SentenceFrame("{s} never fail[s] to {vp}", True, (3,)),
    SentenceFrame("time after time {s} {vps}", True, (3,), embeds=False),
    SentenceFrame("{s} cannot help but {vp}", True, (3,)),
    SentenceFrame("I thought that {s} would {vp}, and I was right", True, (2,), embeds=False),
    SentenceFrame("some people say that {s} {vps}, and they are right", True, (1, 2), embeds=False),
    SentenceFrame("{s} do[es] not really {vp}", False, (1,)),
    SentenceFrame("{s} rarely {vps}", False, (1,)),
    SentenceFrame("{s} do[es] not usually {vp}", False, (1,)),
    SentenceFrame("{s} do[es] not {vp}", False, (2,)),
    SentenceFrame("I cannot say that {s} {vps}", False, (1, 2)),
    SentenceFrame("I have yet to see {s} {vp}", False, (2, 3)),
    SentenceFrame("I do not believe that {s} {vps}", False, (1, 2), embeds=False),
    SentenceFrame("it is simply not true that {s} {vps}", False, (2, 3), embeds=False),
    SentenceFrame("nobody could claim that {s} {vps}", False, (2, 3)),
    SentenceFrame("{s} fail[s] to {vp}", False, (2,), _G),
    SentenceFrame("I waited in vain for {s} to {vp}", False, (2, 3), _G),
    SentenceFrame("{s} never once {vps}", False, (3,)),
    SentenceFrame("not once did {s} {vp}", False, (3,)),
    SentenceFrame("at no point did {s} {vp}", False, (3,)),
    SentenceFrame("I thought that {s} would {vp}, and I was wrong", False, (2,), embeds=False),
    SentenceFrame("some people say that {s} {vps}, and they are wrong", False, (2, 3), embeds=False),
)

# Clauses without a predicate of their own, by polarity; here the strength is in the idiom.
IDIOMS: Final[dict[bool, dict[int, tuple[str, ...]]]] = {
    True: {
        1: (
            "{s} could be worse",
            "I can live with {s}",
            "I have few complaints about {s}",
            "there is little wrong with {s}",
        ),
        2: (
            "I have no complaints about {s}",
            "I cannot fault {s}",
            "{s} give[s] no cause for complaint",
            "{s} won me over",
            "I tried to find fault with {s} and failed",
        ),
        3: (
            "{s} could hardly be better",
            "{s} leave[s] nothing to be desired",
            "no praise is too high for {s}",
            "it would take a genius to improve on {s}",
            "I have never had less to complain about than in the case of {s}",
        ),
    },
    False: {
        1: (
            "{s} could be better",
            "I only just put up with {s}",
            "I have little praise for {s}",
            "there is little to love about {s}",
        ),
        2: (
            "I have no praise for {s}",
            "I cannot warm to {s}",
            "{s} give[s] no cause for joy",
            "{s} failed to win me over",
            "I tried to find something to like about {s} and failed",
        ),
        3: (
            "{s} could hardly be worse",
            "{s} leave[s] everything to be desired",
            "no complaint is too harsh for {s}",
            "it would take a genius to make {s} any worse",
            "I have never had less to praise than in the case of {s}",
        ),
    },
}

# One conceded and one deciding side; each names the one that counts by syntax or in words.
CONTRASTS: Final = (
    "although {c}, {d}",
    "{d}, although {c}",
    "{d}, even if {c}",
    "even though {c}, {d}",
    "{c}, but {d}, and that matters more",
    "{d}, and that matters more than anything else. Admittedly, {c}",
    "it is true that {c}. Even so, {d}",
    "granted, {c}. In the end, however, {d}",
    "{C}. Yet {d}, and that is what decides the matter",
    "{D}. It is also the case that {c}, but the former weighs more",
    "{C}. Still, what settles the matter is that {d}",
    "it counts for little that {c}, because {d}",
    "{d}, and it changes nothing that {c}",
    "the fact that {c} cannot outweigh the fact that {d}",
    "the fact that {d} outweighs the fact that {c}",
    "what counts for me is that {d}. That {c} is a side issue",
    "you may well find that {c}, yet in the end {d}",
    "on the one hand, {c}; on the other, and this counts for more, {d}",
    "on the one hand, and this is decisive, {d}; on the other, {c}",
    "I could dwell on the fact that {c}, yet what stays with me is that {d}",
    "never mind that {c}. What counts is that {d}",
    "{D}. Against that, it hardly matters that {c}",
    "while {c}, my verdict rests on the fact that {d}",
    "my verdict rests on the fact that {d}, not on the fact that {c}",
)
# Two opinions that point the same way; the first set can stand inside another clause.
JOINS_EMBEDDED: Final = ("{x} and {y}", "{x} and, what is more, {y}", "{x} and at the same time {y}")
JOINS_FREE: Final = (
    "{X}. {Y}",
    "{X}. On top of that, {y}",
    "{X}. What is more, {y}",
    "{x}, and {y}",
    "{x}; likewise, {y}",
    "{x}, just as {y}",
    "{x}. In addition, {y}",
    "first, {x}, and second, {y}",
)

NOUNS: Final[dict[bool, tuple[str, ...]]] = {
    True: _words("a gem, a winner, a triumph, a delight, a success, a treat, a small miracle"),
    False: _words("a mess, a dud, a failure, a disaster, a letdown, a flop, a disappointment"),
}
WITNESSES: Final = _words(
    "the critics, most reviewers, my friends, my colleagues, the people I know, the experts, the papers"
)
# What somebody thought of the item beforehand, by source and by whether it turned out to be true. {foil} is that
# opinion, {truth} the reviewer's own.
FOILS: Final[dict[tuple[str, bool], tuple[str, ...]]] = {
    ("expectation", False): (
        "I expected this {item} to be {foil} and got {truth}",
        "I expected this {item} to be {foil}, and I was wrong",
        "what I took for {foil} turned out to be {truth}: that is this {item} in a nutshell",
        "before I knew this {item}, I was sure it was {foil}; I have had to change my mind",
        "this {item} sounded like {foil}, and I could not have been more mistaken",
        "if you expect this {item} to be {foil}, as I did, you will have to think again",
        "my belief that this {item} would be {foil} did not survive the first hour",
        "I would have bet that this {item} was {foil}, and I would have lost",
    ),
    ("expectation", True): (
        "I expected this {item} to be {foil} and got exactly that",
        "I expected this {item} to be {foil}, and I was right",
        "what I took for {foil} turned out to be just that: so much for this {item}",
        "before I knew this {item}, I was sure it was {foil}; I have had no reason to change my mind",
        "this {item} sounded like {foil}, and I was not mistaken",
        "if you expect this {item} to be {foil}, as I did, you need not think again",
        "my belief that this {item} would be {foil} survived the first hour and all that came after",
        "I would have bet that this {item} was {foil}, and I would have won",
    ),
    ("reputation", False): (
        "everyone says that this {item} is {foil}; they are wrong",
        "{who} call this {item} {foil}, and I cannot agree",
        "{who} told me that this {item} was {foil}, and they were mistaken",
        "this {item} has been described as {foil}; it is nothing of the kind",
        "do not believe {who} when they say that this {item} is {foil}",
        "contrary to what {who} claim, this {item} is {truth}",
        "{who} had me convinced that this {item} was {foil}, but it is {truth}",
        "whoever called this {item} {foil} cannot have tried it",
    ),
    ("reputation", True): (
        "everyone says that this {item} is {foil}; they are right",
        "{who} call this {item} {foil}, and I cannot disagree",
        "{who} told me that this {item} was {foil}, and they were not mistaken",
        "this {item} has been described as {foil}; it is nothing less",
        "you can believe {who} when they say that this {item} is {foil}",
        "as {who} rightly claim, this {item} is {foil}",
        "{who} had me convinced that this {item} was {foil}, and it is",
        "whoever called this {item} {foil} must have tried it",
    ),
}

# What the reviewer would do, by domain and by what it says about the item.
ACTS: Final[dict[tuple[Domain, bool], tuple[str, ...]]] = {
    ("product", True): _words(
        "buy it again, recommend it to a friend, choose it a second time, order another one, hold on to it"
    ),
    ("product", False): _words(
        "send it back, warn a friend about it, ask for my money back, look for something else, give it away"
    ),
    ("film", True): _words(
        "watch it again, recommend it to a friend, see it a second time, pay for another ticket, keep a copy of it"
    ),
    ("film", False): _words(
        "switch it off half-way, warn a friend about it, ask for my money back, choose something else, leave early"
    ),
}
# By whether the reviewer would do it.
VERDICTS: Final[dict[bool, tuple[str, ...]]] = {
    True: (
        "I would {act}",
        "all in all, I would {act}",
        "whether I would {act} is a question that I can answer with yes",
        "if I had the choice, I would {act}",
        "I see every reason to {act}",
        "nothing would stop me if I wanted to {act}, and I do want to",
        "ask me whether I would {act}, and I will say yes",
    ),
    False: (
        "I would not {act}",
        "all in all, I would not {act}",
        "whether I would {act} is a question that I can answer with no",
        "if I had the choice, I would not {act}",
        "I see no reason to {act}",
        "nothing would stop me if I wanted to {act}, but I do not want to",
        "ask me whether I would {act}, and I will say no",
    ),
}
