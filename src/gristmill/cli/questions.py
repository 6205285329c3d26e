"""What the demo asks: short, of general knowledge, all different."""

INSTRUCTIONS = "You are a friendly teacher. Answer the question in one short, complete sentence."

QUESTIONS = (
    "Why is the sky blue?",
    "What do bees make honey from?",
    "How does a water mill grind grain?",
    "What is the capital of France?",
    "Why do leaves change colour in autumn?",
    "What is a volcano?",
    "How do fish breathe under water?",
    "What causes the tides of the sea?",
    "Why do cats purr?",
    "What is bread made of?",
    "How many legs does a spider have?",
    "What does a compass show?",
    "Why does ice float on water?",
    "Who wrote Romeo and Juliet?",
    "What is the largest planet of the solar system?",
    "How do birds find their way south?",
    "What is a library for?",
    "Why do we need sleep?",
    "What is photosynthesis?",
    "How does a rainbow form?",
    "What is the Great Wall of China?",
    "Why do onions make people cry?",
    "What does a heart do?",
    "How is paper made?",
)
