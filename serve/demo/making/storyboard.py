"""The storyboards of the demo's videos, and the questions about them. make_videos.py turns them into files."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A 16:9 part of a photograph, in fractions of the photograph's width and height."""

    x: float = 0.5  # centre
    y: float = 0.5
    width: float = 1.0  # the height follows from 16:9


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picture between two hard cuts, as long as its spoken lines."""

    shows: str  # name of the subject, which SeenQuestion.shows refers to; neighbouring scenes may share it
    picture: str = ""  # name in make_videos.PICTURES; empty: the text of `slide`
    begin: View = View()  # first view of the camera, which moves evenly to `end`
    end: View = View()
    slide: tuple[str, ...] = ()  # lines of text; the first is the heading
    lines: tuple[str, ...]  # spoken lines, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenQuestion:
    """A question that pictures answer: the scenes that show a subject."""

    query: str
    shows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenQuestion:
    """A question that the narrator answers: the only line that contains `words`."""

    query: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Storyboard:
    """The storyboard of a video."""

    file: str
    caption: str  # a query for the whole video, as a person would write it
    scenes: tuple[Scene, ...]
    questions: tuple[SeenQuestion | SpokenQuestion, ...]


SPACE = Storyboard(
    file="leaving_home.mp4",
    caption="an astronaut, a rocket and distant galaxies",
    scenes=(
        Scene(
            shows="title",
            slide=("Leaving home", "three short stories from space"),
            lines=("Here are three short stories about leaving home.",),
        ),
        Scene(
            shows="astronaut",
            picture="astronaut",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.5, y=0.4, width=0.7),
            lines=("In nineteen ninety nine, Eileen Collins became the first woman to command a space shuttle.",),
        ),
        Scene(
            shows="astronaut",
            picture="astronaut",
            begin=View(x=0.58, y=0.32, width=0.5),
            end=View(x=0.5, y=0.6, width=0.65),
            lines=("Her crew of five carried a new telescope into orbit.",),
        ),
        Scene(
            shows="rocket",
            picture="rocket",
            begin=View(x=0.5, y=0.58, width=1.0),
            end=View(x=0.5, y=0.55, width=0.8),
            lines=(
                "In February twenty fifteen, a rocket waited for the evening at Cape Canaveral.",
                "Its cargo went to watch the Earth from one and a half million kilometers away.",
            ),
        ),
        Scene(
            shows="galaxies",
            picture="galaxies",
            begin=View(x=0.4, y=0.4, width=0.6),
            end=View(x=0.55, y=0.55, width=0.85),
            lines=(
                "The Hubble telescope stared at a small, dark part of the sky for two million seconds.",
                "It counted five thousand five hundred galaxies.",
            ),
        ),
    ),
    questions=(
        SeenQuestion(query="a rocket at dusk with floodlights", shows="rocket"),
        SeenQuestion(query="stars and galaxies in the night sky", shows="galaxies"),
        SpokenQuestion(query="when does the speaker mention Eileen Collins?", words="Eileen Collins"),
        SpokenQuestion(query="five thousand five hundred galaxies", words="five hundred galaxies"),
    ),
)

COFFEE = Storyboard(
    file="one_cup.mp4",
    caption="the history of coffee",
    scenes=(
        Scene(
            shows="title",
            slide=("One cup", "how coffee travelled the world"),
            lines=("This is how one small cup conquered the world.",),
        ),
        Scene(
            shows="wall",
            picture="bricks",
            begin=View(x=0.5, y=0.4, width=0.9),
            end=View(x=0.5, y=0.6, width=0.9),
            lines=("In sixteen fifty two, the first coffee house in London opened in a narrow alley.",),
        ),
        Scene(
            shows="cup",
            picture="coffee",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.5, y=0.45, width=0.75),
            lines=(
                "The plant itself comes from the highlands of Ethiopia.",
                "Legend says that a shepherd tried it after he saw his goats dancing.",
            ),
        ),
        Scene(
            shows="cup",
            picture="coffee",
            begin=View(x=0.6, y=0.6, width=0.7),
            end=View(x=0.45, y=0.45, width=0.7),
            lines=("Nobody drinks more of it than the people of Finland.",),
        ),
        Scene(
            shows="slide",
            slide=("Leipzig, about 1735", "Johann Sebastian Bach", "writes his Coffee Cantata"),
            lines=("In Germany, Johann Sebastian Bach wrote a song about a girl who could not give it up.",),
        ),
    ),
    questions=(
        SeenQuestion(query="a cup of espresso on a saucer", shows="cup"),
        SpokenQuestion(query="when does the narrator talk about Ethiopia?", words="Ethiopia"),
        SpokenQuestion(query="where is Johann Sebastian Bach mentioned?", words="Bach"),
        SpokenQuestion(query="people in Finland", words="Finland"),
    ),
)

GARDENS = Storyboard(
    file="two_gardens.mp4",
    caption="a palace garden in China and an orange dahlia flower",
    scenes=(
        Scene(
            shows="title",
            slide=("Two gardens", "a walk"),
            lines=("Come for a short walk through two gardens.",),
        ),
        Scene(
            shows="temple",
            picture="pagoda",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.42, y=0.45, width=0.8),
            lines=(
                "In seventeen fifty, the emperor of China began a palace beside a lake.",
                "It was a present for his mother, on her sixtieth birthday.",
            ),
        ),
        Scene(
            shows="temple",
            picture="pagoda",
            begin=View(x=0.4, y=0.4, width=0.65),
            end=View(x=0.45, y=0.5, width=0.85),
            lines=("Roofs like these rest on wooden brackets, often without a single nail.",),
        ),
        Scene(
            shows="flower",
            picture="dahlia",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.5, y=0.48, width=0.7),
            lines=(
                "This flower is called the dahlia, after a botanist in Sweden.",
                "In nineteen sixty three, it became the national flower of Mexico.",
            ),
        ),
        Scene(
            shows="grass",
            picture="grass",
            begin=View(x=0.5, y=0.45, width=0.62),
            end=View(x=0.5, y=0.55, width=0.62),
            lines=("An English engineer, Edwin Budding, patented the lawn mower in eighteen thirty.",),
        ),
    ),
    questions=(
        SeenQuestion(query="a Chinese temple with curved roofs", shows="temple"),
        SeenQuestion(query="a close-up of an orange flower", shows="flower"),
        SpokenQuestion(query="when does the speaker mention Mexico?", words="Mexico"),
        SpokenQuestion(query="who invented the lawn mower?", words="lawn mower"),
        SpokenQuestion(query="a birthday present for his mother", words="sixtieth birthday"),
    ),
)

CATS = Storyboard(
    file="nine_lives.mp4",
    caption="a ginger cat, and stories about cats in history",
    scenes=(
        Scene(
            shows="title",
            slide=("Nine lives", "people and their cats"),
            lines=("People and cats have lived together for a very long time.",),
        ),
        Scene(
            shows="cat",
            picture="cat",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.5, y=0.45, width=0.8),
            lines=(
                "On the island of Cyprus, one was buried beside its owner nine thousand five hundred years ago.",
                "A Greek traveler wrote that Egyptians shaved their eyebrows when theirs died.",
            ),
        ),
        Scene(
            shows="cat",
            picture="cat",
            begin=View(x=0.5, y=0.3, width=0.65),
            end=View(x=0.4, y=0.35, width=0.65),
            lines=("In nineteen sixty three, France sent one to outer space. She came back alive.",),
        ),
        Scene(
            shows="horse",
            picture="horse",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.52, y=0.45, width=0.8),
            lines=("It sleeps for twelve hours a day. A horse needs only three.",),
        ),
    ),
    questions=(
        SeenQuestion(query="a close-up of a cat's face", shows="cat"),
        SeenQuestion(query="a black silhouette of a horse", shows="horse"),
        SpokenQuestion(query="when does the speaker talk about Cyprus?", words="Cyprus"),
        SpokenQuestion(query="Egyptians shaved their eyebrows", words="eyebrows"),
        SpokenQuestion(query="when does the narrator mention France?", words="France"),
    ),
)

HOPPER = Storyboard(
    file="the_admiral.mp4",
    caption="Grace Hopper, a pioneer of computing",
    scenes=(
        Scene(
            shows="title",
            slide=("The admiral", "Grace Hopper, 1906 to 1992"),
            lines=("This is the story of the admiral who taught machines to read.",),
        ),
        Scene(
            shows="formulas",
            picture="formulas",
            begin=View(x=0.35, y=0.5, width=0.6),
            end=View(x=0.62, y=0.5, width=0.6),
            lines=("In nineteen fifty two, computers were given only numbers.",),
        ),
        Scene(
            shows="officer",
            picture="hopper",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.5, y=0.35, width=0.62),
            lines=(
                "Grace Hopper wrote a program that understood English words.",
                "In nineteen forty seven, engineers at Harvard found a dead moth inside their computer.",
            ),
        ),
        Scene(
            shows="officer",
            picture="hopper",
            begin=View(x=0.5, y=0.35, width=0.56),
            end=View(x=0.5, y=0.5, width=0.9),
            lines=("She handed out short wires, as long as light travels in a billionth of a second.",),
        ),
        Scene(
            shows="slide",
            slide=("1 nanosecond", "= 30 centimeters of wire"),
            lines=("That is thirty centimeters, about one foot.",),
        ),
    ),
    questions=(
        SeenQuestion(query="an old woman in a navy uniform", shows="officer"),
        SpokenQuestion(query="when is a moth mentioned?", words="moth"),
        SpokenQuestion(query="how far light travels in a billionth of a second", words="billionth"),
    ),
)

LIGHT = Storyboard(
    file="catching_light.mp4",
    caption="photography and the human eye",
    scenes=(
        Scene(
            shows="title",
            slide=("Catching light", "cameras and eyes"),
            lines=("Everything that looks has to catch light.",),
        ),
        Scene(
            shows="photographer",
            picture="photographer",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.5, y=0.4, width=0.7),
            lines=(
                "The oldest photograph was made in Burgundy, around eighteen twenty six.",
                "The exposure took at least eight hours.",
            ),
        ),
        Scene(
            shows="photographer",
            picture="photographer",
            begin=View(x=0.5, y=0.3, width=0.5),
            end=View(x=0.54, y=0.35, width=0.56),
            lines=("The first web camera watched a coffee pot, at the University of Cambridge.",),
        ),
        Scene(
            shows="retina",
            picture="retina",
            begin=View(x=0.5, y=0.5, width=1.0),
            end=View(x=0.48, y=0.5, width=0.65),
            lines=(
                "The back of a human eye has about one hundred million rods.",
                "Where the nerve leaves, every eye is blind.",
            ),
        ),
        Scene(
            shows="pebbles",
            picture="pebbles",
            begin=View(x=0.45, y=0.5, width=0.62),
            end=View(x=0.55, y=0.5, width=0.62),
            lines=("In moonlight, even a beach in Hawaii looks gray.",),
        ),
    ),
    questions=(
        SeenQuestion(query="a man looking through a camera on a tripod", shows="photographer"),
        SpokenQuestion(query="when does the speaker mention Cambridge?", words="Cambridge"),
        SpokenQuestion(query="the oldest photograph, made in Burgundy", words="Burgundy"),
        SpokenQuestion(query="a beach in Hawaii", words="Hawaii"),
    ),
)

STORYBOARDS = (SPACE, COFFEE, GARDENS, CATS, HOPPER, LIGHT)

# Questions that no video answers: the right reply is NO_MATCH.
ABSENT_SPOKEN = (
    "when does the speaker mention the Amazon rainforest?",
    "the price of crude oil",
    "Shakespeare's sister",
)
ABSENT_SEEN = ("a football match in a stadium", "a man swimming in a pool", "a bowl of noodle soup")
