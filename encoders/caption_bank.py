"""The bank: short captions of everyday pictures. Search compares a question with it to recognise a non-match."""

# Some pictures are close to every text, and some texts are close to every picture; both raise the raw similarity. The
# visual channel subtracts a frame's similarity to this bank from its score. Its no-match test measures how far a
# question stands above the bank. So the bank is broad and plain: it covers what ordinary video shows.
BANK: tuple[str, ...] = (
    # people
    "a person", "a man talking to the camera", "a woman smiling", "a child playing", "a baby", "an old man",
    "a group of people", "a crowd of people", "two people talking", "a close-up of a face",
    "a pair of hands", "a person sitting on a chair", "a person walking outside",
    "a person working at a computer", "a family at home", "a couple outdoors", "a person using a phone",
    "a man in a suit", "a woman in a dress",
    # animals
    "an animal", "a dog", "a cat", "a bird", "a horse", "a fish under water", "a cow in a field",
    "an insect on a flower", "a wild animal", "a snake",
    # vehicles and streets
    "a car on a road", "traffic in a city", "a truck", "a bus", "a bicycle", "a motorcycle", "a train",
    "a boat on the water", "an airplane", "a parking lot", "a street with people",
    "the view from a driving car",
    # food
    "a plate of food", "someone cooking in a kitchen", "fruit and vegetables", "a cake",
    "a drink in a glass", "people eating at a table",
    # sport, music and doing
    "people playing a ball game", "a football match", "a person running", "a person swimming",
    "a person dancing", "a person exercising", "someone skiing in the snow", "a person riding a bicycle",
    "a musician playing an instrument", "a band on a stage", "a person reading a book", "a person painting",
    "someone repairing a machine", "people at a party", "a person giving a speech",
    # places
    "a landscape", "mountains", "a forest", "a beach and the sea", "a river", "a field of grass",
    "a desert", "a garden", "the sky with clouds", "a sunset", "a city at night", "a tall building",
    "a house", "a living room", "a bedroom", "an office", "a shop", "a classroom", "a hospital room",
    "a factory", "a stadium", "a church", "snow in winter", "rain",
    # things
    "a table with things on it", "a toy", "a tool", "a computer", "a phone", "furniture", "clothes",
    "a plant in a pot", "a flower", "a machine", "a book", "a sign with writing", "fire and smoke",
    # screens and drawings
    "a presentation slide with text", "a computer screen", "a web page", "a table of numbers", "a chart",
    "a map", "a video game", "a cartoon", "a drawing", "a painting", "a black and white film", "a logo",
    "white text on a black background", "a television news studio", "an animated film", "a blurry picture",
    "an empty dark scene", "a plain background",
)  # fmt: skip
