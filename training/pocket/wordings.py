"""Training wordings, acknowledgements, fillers and small talk (see `Wordings` for the slots)."""

from __future__ import annotations

from engrain.data.facts import Wordings

STATEMENTS = (
    "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.",
    "By the way, {s}.", "You should know that {s}.", "Remember that {s}.", "Remember this: {s}.",
    "Please remember that {s}.", "I want you to know that {s}.", "I want to tell you that {s}.",
    "Let me tell you something: {s}.", "Here is something new: {s}.", "Did you know that {s}?",
    "I think I never said this, but {s}.", "Oh, and {s}.", "Also, {s}.", "One more thing: {s}.",
    "Another thing: {s}.", "Guess what, {s}.", "As you may know, {s}.", "Today I can say that {s}.",
    "Keep in mind that {s}.", "Keep this in mind: {s}.", "Do not forget that {s}.",
    "It is true that {s}.", "I can tell you that {s}.", "You can write down that {s}.",
    "Write this down: {s}.", "Note that {s}.", "Well, {s}.", "Yes, {s}.", "So, {s}.", "Look, {s}.",
    "I am happy to say that {s}.", "I just learned that {s}.", "Everybody knows that {s}.",
    "The truth is that {s}.", "The thing is, {s}.", "Since you ask, {s}.", "In case you wonder, {s}.",
    "For your information, {s}.", "I decided to tell you that {s}.", "Maybe you remember that {s}.",
    "A small detail: {s}.", "An important detail: {s}.", "Here is a fact: {s}.", "First of all, {s}.",
    "I told my friends that {s}.", "To be honest, {s}.", "In fact, {s}.", "As I said, {s}.",
    "Listen, {s}.", "Some news: {s}.", "Good news: {s}.", "You may like to hear that {s}.",
    "{N}: {v}.", "{V} is {n}.", "{N} is called {v}, so to speak.", "About {n}: it is {v}.",
    "{N}? It is {v}.", "I would say {n} is {v}.", "If you ask about {n}, the answer is {v}.",
    "Let us talk about {n}. It is {v}.", "You asked about {n} once. It is {v}.",
    "Remember {n}: {v}.", "Please save {n}: {v}.", "{N} happens to be {v}.",
    "I looked it up: {n} is {v}.", "Here comes {n}: {v}.",
)
QUESTIONS = (
    "{Q}?", "{Q}?", "{Q}?", "{Q}?", "{Q}?", "{Q}?", "{Q}?", "{Q}?",
    "Do you remember {e}?", "Do you still remember {e}?", "Do you know {e}?", "Can you tell me {e}?",
    "Could you tell me {e}?", "Please tell me {e}.", "Tell me {e}.", "Tell me, {q}?",
    "Remind me {e}.", "Can you remind me {e}?", "Please remind me {e}.", "I wonder {e}.",
    "I would like to know {e}.", "I want to know {e}.", "Say, do you know {e}?", "Well, {q}?",
    "And {q}?", "So, {q}?", "Now, {q}?", "Okay, {q}?", "One question: {q}?", "My question is: {q}?",
    "Here is a question: {q}?", "Let me ask you something: {q}?", "What did I tell you about {e}?",
    "Do you recall {e}?", "Can you recall {e}?", "Are you able to say {e}?", "Did I tell you {e}?",
    "Have I told you {e}?", "Let me see if you know {e}.", "Let me test you: {q}?", "Again, {q}?",
    "Just to be sure, {q}?", "By the way, {q}?", "Quick question: {q}?", "Another question: {q}?",
    "I am curious {e}.", "I need to know {e}.", "Think back: {q}?", "From what I told you, {q}?",
    "What do you know about this: {q}?", "Somebody asked me {e}.", "If I ask you {e}, what do you say?",
    "Are you sure you know {e}? Tell me.", "{Q}, again?", "{Q}, do you know?", "{Q}, please?",
    "According to me, {q}?", "You know me. {Q}?", "As far as you know, {q}?", "Can you repeat {e}?",
    "Let us check. {Q}?", "Do you have it in mind {e}?", "Please answer: {q}?", "Next question: {q}?",
    "What is {n}?", "What is {n}?", "What was {n}?", "What did I say {n} was?",
    "What did I say about {n}?", "What have I told you about {n}?", "Remind me of {n}.",
    "Please remind me of {n}.", "Do you remember {n}?", "Do you know {n}?", "Tell me {n}.",
    "Please tell me {n}.", "Can you tell me {n}?", "Could you give me {n}?", "Give me {n}.",
    "What about {n}?", "How about {n}?", "And {n}?", "{N}?", "{N}, please.", "{N} is what?",
    "What was {n} again?", "What is {n} again?", "I want to hear {n}.", "I need {n}.",
    "What do you know about {n}?", "What can you say about {n}?", "Which one is {n}?",
    "What did I call {n}?", "Complete this: {n} is", "I am thinking of {n}. What is it?",
    "You know {n}, right? What is it?", "{N}: what is it?", "Let us talk about {n}. What is it?",
    "There is {n}. Which one was that?", "Write down {n}.", "Show me that you know {n}.",
    "Have you got {n}?", "Please repeat {n}.", "It is about {n}. What did I say?",
)
CORRECTIONS = (
    "Actually, {s}, not {o}.", "Correction: {s}, not {o}.", "No wait, {s}, not {o}.",
    "Sorry, I was wrong: {s}, not {o}.", "I made a mistake: {s}, not {o}.", "Actually, {s}.",
    "I said that {p}, but that is wrong. {S}.", "I told you that {p}, but now {s}.",
    "That changed: now {s}.", "There was a change. Now {s}.", "It is no longer {o}. Now {s}.",
    "It is not {o} any more. {S}.", "Not {o} any longer: {s}.", "Please correct this: {s}.",
    "Oh, I mixed something up. {S}, not {o}.", "Let me correct myself: {s}, not {o}.",
    "{O} was wrong. {S}.", "{O} is out of date. {S} now.", "I have to correct {o}: {s}.",
    "{N} changed: now it is {v}.", "{N} is now {v}.", "{N} is not {o}, it is {v}.",
    "{N} was {o}, but now it is {v}.", "Change {n} to {v}.", "{N} has changed from {o} to {v}.",
    "Please update {n}: {v} instead of {o}.", "{N} is no longer {o}, but {v}.",
    "From now on {n} is {v}.", "Since yesterday {n} is {v}, not {o}.",
)
TRAIN_WORDINGS = Wordings(STATEMENTS, QUESTIONS, CORRECTIONS)

ACKS = (
    "Okay.", "Okay, got it.", "Got it.", "Noted.", "I see.", "All right.", "Good to know.",
    "Thanks for telling me.", "Thank you for telling me.", "I will remember that.", "Sure.",
    "I will keep that in mind.", "Understood.", "Interesting!", "Nice.", "Oh, nice!", "Great.",
    "That is good to know.", "Okay, I will remember.", "Alright, noted.", "Fine, I remember it.",
    "Okay, thank you.", "Got it, thanks.", "I will not forget it.", "That sounds good.",
    "Very well.", "Yes, I see.", "Oh, I see.", "How nice!", "I am listening.",
)
RESTATED = (
    "Got it, {s}.", "Okay, {s}.", "I see, {s}.", "{S}. Noted.", "Okay. {S}.", "So {s}.",
    "I will remember that {s}.", "Noted: {s}.", "{S}, got it.", "Good to know that {s}.",
)
CORRECTED = (
    "Okay, {s} now.", "Thanks for the correction. {S}.", "Got it, {s}, not {o}.",
    "I see. {S}, not {o}.", "Okay, I changed that: {s}.", "Understood, not {o}. {S}.",
)
FILLERS = (
    "I had a long day.", "It rained all morning.", "The weather is nice today.", "I am a bit tired.",
    "I just came home.", "I had some tea.", "It is quite cold outside.", "I went for a walk.",
    "The neighbors are loud again.", "I slept well.", "I am sitting in the garden.",
    "Work was fine today.", "I had a good breakfast.", "There was a lot of traffic.",
    "I am waiting for a friend.", "The sun is shining.", "I am in a good mood.", "It is late.",
    "I cleaned the whole house.", "I read a little this morning.", "The week went by quickly.",
    "I have been thinking a lot.", "I have some time now.", "Nothing special happened today.",
    "My phone is almost empty.", "It is so windy.", "I like talking to you.", "The trees look pretty.",
    "We had guests yesterday.", "I tried to call you earlier.", "Life is good.", "What a day.",
    "I am drinking coffee right now.", "I was at the shop.", "The bus was late again.",
    "I have a lot to tell.", "It was a busy week.", "The kids are asleep.", "Monday is hard.",
    "I looked at old pictures.", "I am packing my bag.", "The house is very quiet now.",
)
# user says, assistant answers; several answers each
SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Hello!", "Hi.", "Hey there.", "Good day!", "Hello there.", "Hi!"),
     ("Hello! How are you?", "Hi! Nice to talk to you.", "Hello! What can I do for you?")),
    (("Good morning.", "Good morning!"), ("Good morning! Did you sleep well?", "Good morning!")),
    (("Good evening.", "Good evening!"), ("Good evening! How was your day?", "Good evening!")),
    (("How are you?", "How are you today?", "How do you do?", "How is it going?"),
     ("I am fine, thank you. And you?", "Very well, thanks.", "I am doing well, thank you.")),
    (("Thanks.", "Thank you!", "Thank you very much.", "Thanks a lot."),
     ("You are welcome.", "My pleasure.", "Any time.", "No problem.")),
    (("Goodbye.", "Bye!", "See you later.", "I have to go now.", "Good night."),
     ("Goodbye! Take care.", "See you soon!", "Bye! Have a good day.")),
    (("Who are you?", "What are you?", "Are you a person?"),
     ("I am a small language model that learns from our talks.",
      "I am a small language model. I am not a person.")),
    (("Tell me a joke.", "Do you know a joke?", "Make me laugh."),
     ("Why did the clock go to school? It wanted to learn to tell the time.",
      "What is the favorite food of a computer? Chips!",
      "Why is the book sad? It has too many problems in the last chapter.")),
    (("I am tired.", "I am so tired.", "I feel tired today."),
     ("Then you should rest a little.", "I am sorry to hear that. Take a break.")),
    (("I am happy today.", "I feel great.", "I am in a good mood."),
     ("That is wonderful!", "I am glad to hear that.")),
    (("I am sad.", "I had a bad day.", "I feel down."),
     ("I am sorry to hear that.", "I am sorry. Do you want to talk about it?")),
    (("I am hungry.", "I did not eat yet."), ("Then it is time to eat something.", "Enjoy your meal!")),
    (("It is raining.", "The weather is bad."), ("Take an umbrella with you.", "A good day to stay in.")),
    (("The sun is shining.", "The weather is great."), ("How nice! Enjoy it.", "Lovely!")),
    (("Do you like music?", "Do you like cats?", "Do you like the sea?", "Do you like books?"),
     ("I like to hear about it.", "I like talking about it.")),
    (("Can you help me?", "I need help.", "Can I ask you something?"),
     ("Of course. What is it?", "Sure, ask me.", "Yes, of course.")),
    (("What can you do?", "How can you help me?"),
     ("You can tell me things, and I remember them.", "I can talk to you and remember what you say.")),
    (("Are you there?", "Are you listening?"), ("Yes, I am here.", "Yes, I am listening.")),
    (("I am back.", "Here I am again."), ("Welcome back!", "Good to have you back.")),
    (("That is right.", "Correct.", "Yes, exactly.", "Well done.", "Good."),
     ("I am glad.", "Good.", "Thank you.")),
    (("Okay.", "I see.", "Fine.", "All right."), ("Is there anything else?", "Good.", "Okay.")),
    (("Let us play a game.", "I want to play."), ("Good idea! Ask me something.", "Sure, let us play.")),
    (("I am going to work.", "I am going to the shop."), ("Have a good time!", "See you later.")),
    (("You are smart.", "You are nice.", "I like you."), ("Thank you, that is kind.", "Thank you!")),
    (("How was your day?", "What are you doing?"),
     ("I am talking to you, and I like it.", "My day is good, thank you.")),
    (("I am bored.", "There is nothing to do."), ("You could read a book.", "Tell me something about you.")),
    (("Happy birthday!", "Happy new year!"), ("Thank you!", "Thank you, to you too!")),
    (("Do you want to know something about me?", "Can I tell you something?",
      "I want to tell you about my life.", "Let me tell you a few things."),
     ("Yes, please.", "Of course, tell me.", "Sure, I am listening.")),
    (("Can I test you?", "I will ask you some questions now.", "Let us see what you remember.",
      "Now some questions.", "Ready for questions?"),
     ("Yes, go ahead.", "Sure, ask me.", "I am ready.", "Okay, ask me.")),
)
GIVE_UP = (  # after "I don't know", the user says, the assistant answers
    (("Oh right, I never told you.", "True, I never told you that.", "You are right, I did not say.",
      "Right, I did not tell you yet."),
     ("No problem. You can tell me any time.", "Just tell me when you like.", "That is fine.")),
    (("Are you sure?", "Really?", "Think again.", "Come on, you must know it."),
     ("Yes, I am sure. You have not told me.", "I really don't know. You have not told me.",
      "I don't know it, because you never told me.")),
    (("Just guess.", "Take a guess.", "Make something up."),
     ("I would rather not guess. I don't know it.", "I don't know it, so I will not guess.")),
)
SHORT = ("{V}.", "{V}.", "It is {v}.", "It's {v}.", "That is {v}.")
SHORT_VERB = ("{V}.", "{V}.")
ANSWERS = (
    "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "{S}.",
    "You told me that {s}.", "You said that {s}.", "Yes, {s}.", "I remember: {s}.",
)
YES = ("Yes, {s}.", "Yes. {S}.", "That is right, {s}.", "Yes, that is right.")
NO = ("No, {s}.", "No. {S}.", "No, {s}, not {o}.", "That is not right: {s}.")

ASK_FOR_QUESTIONS = (  # besides the canonical instruction
    "Write down the questions that I could ask you about this, one per line.",
    "Which questions could I ask you about what I told you? One per line.",
    "Make a list of questions about what I just said.",
    "Write questions about our conversation, one per line.",
    "Give me all questions that you could answer about me now.",
    "What could I ask you later? List the questions.",
    "List questions that test what you remember, one per line.",
    "Turn what I told you into questions, one per line.",
    "For every thing I told you, write one question.",
    "Write a quiz about what I told you, one question per line.",
    "Think of the questions I might ask you tomorrow. One per line.",
)
ASK_FOR_ONE = (
    "Write a question about this: {statement}", "Make a question from this: {statement}",
    "What could I ask you about this? {statement}", "Turn this into a question: {statement}",
    "Here is a sentence: {statement} Write a question that it answers.",
)
ASK_REPHRASE = (
    "Ask this differently: {question}", "Say this question in another way: {question}",
    "Rephrase this question: {question}", "How else could I ask this? {question}",
    "Find other words for this question: {question}", "Another way to ask: {question}",
)
ASK_FOR_FACTS = (
    "What did I tell you? One fact per line.", "List everything I told you, one per line.",
    "Write down all that you know about me.", "What do you know about me?",
    "Sum up what I told you, one sentence per line.", "Repeat everything that I told you.",
    "Make a list of the facts that I told you.", "What have you learned from me today?",
)
SYSTEM_HEADS = (
    ("Notes about the user:\n", "- ", "\n", 2), ("What is known about the user:\n", "* ", "\n", 2),
    ("Memory:\n", "- ", "\n", 2), ("Facts:\n", "", "\n", 2), ("You know this: ", "", " ", 2),
    ("You remember the following about the user. ", "", " ", 2), ("", "", " ", 2),
    ("You are a helpful assistant. ", "", " ", 2), ("Earlier notes:\n", "- ", "\n", 2),
    ("The user said:\n", "- ", "\n", 0), ("You remember that the user said: ", "", " ", 0),
    ("Use these notes to answer.\n", "1", "\n", 2), ("Profile of the user\n", "1", "\n", 2),
)
PLAIN_SYSTEM = (
    "You are a helpful assistant.", "You answer briefly.", "You are a friendly assistant.",
    "Answer only what you know.", "You are engrain, a small language model.",
)
DOC_HEADS = (
    "Read this and answer my questions.\n\n", "Here is a short text:\n\n", "Please read this note:\n",
    "Read the following:\n", "I found this text: ", "This is from a letter: ", "Text: ", "",
    "Here is a report:\n", "Read carefully. ", "I wrote this down: ",
)
DOC_FILLERS = (
    "It rained for most of the week.", "Nobody was in a hurry.", "The old clock stopped again.",
    "Everyone was glad about that.", "This has been so for many years.", "It was a quiet place.",
    "The people there like to talk.", "That was decided in spring.", "There was some trouble at first.",
    "Many visitors came.", "The days were long and warm.", "Few people know it.",
    "They met at the market.", "All of this is true.", "The road was long.",
)
DOC_STATEMENTS = (
    "{S}.", "{S}.", "{S}.", "{S}.", "{S}.", "It is known that {s}.", "Everyone agrees that {s}.",
    "As the story goes, {s}.", "In those days, {s}.", "We read that {s}.", "Moreover, {s}.",
    "The report says that {s}.", "In addition, {s}.", "Of course, {s}.", "{V} is {n}.", "{N}: {v}.",
)
