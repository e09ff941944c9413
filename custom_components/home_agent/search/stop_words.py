"""Stop words: frequent words that do not help to find an entity.

English, German, French, Spanish, Italian and Dutch, in lower case. Words for
directions, numbers and times are not among them, since they occur in names.
"""

from typing import Final

_WORDS: Final = """
a about all am an and any are as at be been but by can could did do does for
from get give had has have he her here him his how i if in into is it its
just let like me my need of on or our please set she should show so some
something tell that the their them then there these they thing this to turn
us want was we were what when where which who will with would you your
aber alle als am an auch auf aus bei bin bist bitte da das dass dem den der
des die dies diese doch du ein eine einem einen einer er es etwas für haben
hat hier ich ihr im in ist ja kann kannst kein man mal mein mich mir mit mach
machen nach nicht noch nur ob oder schalte sein sich sie sind so soll stell
uns und vom von vor war was welche wenn wer wie will wir wird wo zu zum zur
au aux avec ce ces cette dans de des du elle en est et il ils je la le les
leur ma me mes moi mon ne nous on ou par pas pour que quel quelle qui sa se
ses son sont sur ta te tes toi ton tu un une votre vous
al con como cual de del el ella en es esta este esto hay la las lo los me mi
mis no nos para pero por que qué quiero se si sin son su sus te tu un una y
yo
ai alla anche che chi ci come con da dei del della di e gli ho i il io la le
lo ma mi nel nella non per più quale sono su sul tu un una uno
aan bij dat de deze die dit een en er het hij hoe ik is je kan maar me met
mij mijn naar niet of om ook op te uit van voor waar wat we welke wie wij zet
zijn zo
"""

STOP_WORDS: Final = frozenset(_WORDS.split())
