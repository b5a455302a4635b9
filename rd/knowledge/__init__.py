"""What a word or a sentence makes one think of: concepts, emotional intensity, commonsense (KEMP, CASE, CAB, EmpDG)."""
