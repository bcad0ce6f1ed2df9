"""Demo products: an outdoor and home shop, the same at every call."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

STRIDE = 49_999
# There are no more combinations of words than this.
MOST = 1_000_000

# Per category: its kinds of product with a base price in minor units, their variants, and a sentence of description.
SHELVES = {
    "Tents & Shelters": (
        "Dome Tent 18900, Tunnel Tent 27900, Trekking Tent 32900, Ridge Tent 24900, Tarp 6900, Bivouac Sack 8900, "
        "Sun Shelter 5900, Hammock Tent 14900, Footprint 2900, Awning 7900",
        "One-Person,Two-Person,Three-Person,Four-Person,Lightweight,All-Season,Storm-Proof,Quick-Pitch",
        "Stands up to wind and rain, and packs down small.",
    ),
    "Backpacks & Bags": (
        "Daypack 5900, Trekking Backpack 14900, Duffel Bag 6900, Hip Pack 2900, Commuter Backpack 8900, "
        "Roll-Top Pack 9900, Messenger Bag 7400, Dry Bag 1900, Travel Pack 12900, Climbing Pack 10900",
        "12-Litre,18-Litre,25-Litre,30-Litre,35-Litre,45-Litre,55-Litre,65-Litre",
        "Padded where it carries, with pockets where you look for them.",
    ),
    "Jackets & Layers": (
        "Rain Jacket 12900, Down Jacket 19900, Fleece Jacket 7900, Softshell Jacket 10900, Insulated Vest 8900, "
        "Wind Shirt 6900, Parka 22900, Base Layer 4900, Hooded Jacket 11900, Poncho 3900",
        "Women's,Men's,Unisex,Women's Slim,Men's Slim,Women's Long,Men's Long,Kids'",
        "Made to be worn in layers; wash it at 30 degrees.",
    ),
    "Footwear": (
        "Hiking Boot 16900, Trail Runner 11900, Approach Shoe 12900, Sandal 6900, Winter Boot 15900, "
        "Camp Slipper 3400, Rubber Boot 5900, Walking Shoe 9900, Merino Sock 1900, Gaiter 2900",
        "Women's,Men's,Kids',Wide-Fit Women's,Wide-Fit Men's,Narrow-Fit,Waterproof,Light",
        "Runs true to size and grips on wet rock.",
    ),
    "Camp Kitchen": (
        "Gas Stove 4900, Cook Set 5400, Kettle 2400, Enamel Mug 1290, Vacuum Bottle 2900, Food Flask 2650, "
        "Cool Box 8900, Cutlery Set 1490, Coffee Press 3200, Fire Bowl 11900",
        "Compact,Large,Lightweight,Classic,Two-Person,Family,Travel,Ultralight",
        "Sturdy enough for the fire and good enough for the table at home.",
    ),
    "Lighting & Power": (
        "Headlamp 3900, Camp Lantern 4400, Torch 2900, String Lights 2450, Power Bank 4900, Solar Panel 9900, "
        "Table Lamp 6900, Bike Light 3400, Reading Light 1990, Candle Lantern 3600",
        "Small,Large,Compact,Travel,Rechargeable,Weatherproof,Long-Life,Classic",
        "Charges by USB-C and lasts a whole evening.",
    ),
    "Home & Living": (
        "Wool Blanket 8900, Floor Cushion 4900, Linen Throw 6400, Folding Stool 5900, Side Table 12900, Rug 14900, "
        "Storage Basket 3400, Wall Hook 1490, Door Mat 2900, Coat Rack 9900",
        "Small,Medium,Large,Extra-Large,Handmade,Natural,Classic,Slim",
        "Brings a little of the cabin into the living room.",
    ),
    "Garden & Terrace": (
        "Deck Chair 7900, Garden Table 24900, Plant Pot 1990, Watering Can 3400, Bird Feeder 2650, Parasol 11900, "
        "Hand Trowel 1290, Bench 18900, Outdoor Rug 6900, Hose Set 4400",
        "Small,Medium,Large,Extra-Large,Lightweight,Classic,Weatherproof,Recycled",
        "Can stay outside all year.",
    ),
}
SERIES = (
    "Alder Arven Aspen Birk Borealis Brenta Calanca Cairn Cirrus Corrie Drift Eira Ember Fennel Fjell Fjord Gneiss"
    " Granit Halden Hazel Heron Hollin Isar Ivar Juniper Kestrel Kite Larch Linden Lumen Lynx Maira Merle Moraine"
    " Nordlys Oden Orla Osprey Pelmo Pinza Quarry Rondane Rowan Salix Sarek Scree Sila Skarn Solan Sorrel Strand"
    " Tarn Tern Thistle Tundra Umbra Valder Varde Vega Velm Wader Willow Yarrow Zephyr"
).split()
COLOURS = (
    "Anthracite Black Charcoal Clay Cobalt Copper Cream Fern Forest Graphite Indigo Lichen Mustard Navy Ochre Olive"
    " Plum Rust Sand Slate Smoke Spruce Stone Teal Terracotta White"
).split()
CATEGORIES = tuple(SHELVES)


@dataclass(slots=True)
class DemoProduct:
    """A product to load; `category` is one of CATEGORIES, `price_minor` is in cents, `stock` in units."""

    name: str
    description: str
    category: str
    price_minor: int
    currency: str
    stock: int


def products(count: int) -> Iterator[DemoProduct]:
    """The first `count` products, at most MOST, with unique names; the same at every call."""
    random = Random(2024)  # noqa: S311
    for number in range(count):
        row, shelf = divmod(number, len(CATEGORIES))
        category = CATEGORIES[shelf]
        kinds, names, sentence = SHELVES[category]
        priced_kinds, variants = kinds.split(", "), names.split(",")
        # The stride has no common factor with the number of combinations, so each of them comes once,
        # and neighbours differ in most words.
        rest, kind_index = divmod((row + 977 * shelf) * STRIDE, len(priced_kinds))
        rest, variant_index = divmod(rest, len(variants))
        rest, series_index = divmod(rest, len(SERIES))
        kind, _, price = priced_kinds[kind_index].rpartition(" ")
        variant, series, colour = variants[variant_index], SERIES[series_index], COLOURS[rest % len(COLOURS)]
        yield DemoProduct(
            name=f"{series} {variant} {kind}, {colour}",
            description=f"{variant} {kind.lower()} of our {series} series in {colour.lower()}. {sentence}",
            category=category,
            price_minor=int(price) * random.randint(8, 14) // 1000 * 100 + random.choice((0, 50, 90)),
            currency="EUR",
            stock=random.choice((0, *range(4, 40), *range(50, 150, 5))),
        )
