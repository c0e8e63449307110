-- A study's store as triaxis 0.1.0 wrote it at schema 2: two items, six conditions. Recorded, not to be re-made.
BEGIN TRANSACTION;
CREATE TABLE grades (row TEXT NOT NULL PRIMARY KEY, verdict TEXT NOT NULL, answer TEXT NOT NULL, how TEXT NOT NULL, second INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "grades" VALUES('03d3781daeace633','wrong','20','marked',0);
INSERT INTO "grades" VALUES('10cadc5be4ae4480','wrong','37','marked',0);
INSERT INTO "grades" VALUES('188b739b60e7afd7','right','8','marked',1);
INSERT INTO "grades" VALUES('234d4da5068531cb','right','30','marked',1);
INSERT INTO "grades" VALUES('29013d4ed8db271c','wrong','9','marked',0);
INSERT INTO "grades" VALUES('319c325ff3fd5935','wrong','6','marked',0);
INSERT INTO "grades" VALUES('43b0e9f239f02cf5','wrong','9','marked',0);
INSERT INTO "grades" VALUES('556887d81a9c4524','wrong','6','marked',0);
INSERT INTO "grades" VALUES('8395634e54428c37','wrong','20','marked',0);
INSERT INTO "grades" VALUES('8b51e62901636696','wrong','7','marked',0);
INSERT INTO "grades" VALUES('942054e62b1ba6ca','right','30','marked',1);
INSERT INTO "grades" VALUES('bdb25c9796f5d3f7','wrong','20','marked',0);
INSERT INTO "grades" VALUES('dc034c33576139e5','right','30','marked',1);
INSERT INTO "grades" VALUES('dd7dd5ff5a145092','right','8','marked',1);
INSERT INTO "grades" VALUES('df34c881c23ef92b','wrong','9','marked',0);
INSERT INTO "grades" VALUES('df9492c300bb84bd','right','30','marked',1);
INSERT INTO "grades" VALUES('e7f83118c3983b67','wrong','20','marked',0);
INSERT INTO "grades" VALUES('fce3e642288c05e0','right','30','marked',1);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('schema','2');
INSERT INTO "meta" VALUES('protocol','{"protocol_hash": "8a4837c9e758d17e", "study_hash": "c84f2f983dc19978", "executor": {"name": "tiny", "fingerprint": "00faff566e81", "family": "tiny", "parameters": 973696, "dtype": "float32", "device": "cpu", "attention": "torch scaled_dot_product_attention", "revision": "", "start": "<|user|>", "system": "", "content": "{content}", "reply": "<|assistant|>", "ends": ["<|eos|>"]}, "decode": {"gen_length": 48, "block_length": 8, "steps": 12, "temperature": 0.0, "remasking": "low_confidence", "cfg_scale": 0.0, "threshold": null, "cache": "none", "stop": "eos_block", "factor": null, "refresh": 0}, "task": {"name": "gradeschool", "revision": "gradeschool-1", "grader": "numeric-1"}, "engine": "exact-1", "planners": [], "conditions": [{"name": "none", "scaffold": {"name": "none", "template": "", "placement": "after", "closed": ""}, "role": "baseline", "plan": "", "planner": "", "kind": "", "branches": 1, "decode": {}, "against": "none", "writer": "", "variants": [], "factors": {}, "adapter": "", "watch": false, "completions": 1}, {"name": "plan-empty", "scaffold": {"name": "plan-empty", "template": "Plan: ", "placement": "after", "closed": ""}, "role": "brittleness", "plan": "", "planner": "", "kind": "", "branches": 1, "decode": {}, "against": "none", "writer": "", "variants": [], "factors": {}, "adapter": "", "watch": false, "completions": 1}, {"name": "filler", "scaffold": {"name": "plan", "template": "Plan: {plan}", "placement": "after", "closed": ""}, "role": "brittleness", "plan": "filler:gold", "planner": "", "kind": "filler", "branches": 1, "decode": {}, "against": "none", "writer": "", "variants": [], "factors": {}, "adapter": "", "watch": false, "completions": 1}, {"name": "gold-plan", "scaffold": {"name": "plan", "template": "Plan: {plan}", "placement": "after", "closed": ""}, "role": "trust", "plan": "gold", "planner": "gold", "kind": "true", "branches": 1, "decode": {}, "against": "filler", "writer": "", "variants": [], "factors": {}, "adapter": "", "watch": false, "completions": 1}, {"name": "vote", "scaffold": {"name": "none", "template": "", "placement": "after", "closed": ""}, "role": "diversity", "plan": "", "planner": "", "kind": "", "branches": 5, "decode": {"temperature": 0.7}, "against": "none", "writer": "", "variants": [], "factors": {}, "adapter": "", "watch": false, "completions": 5}], "seeds": [0], "n": 2, "items_hash": "1c1b264ea8a91fd5", "left_out": {}, "spec": {"executor": "tiny", "planners": ["tiny-planner-s"], "task": "gradeschool", "n": 2, "seeds": [0], "conditions": ["plan-empty", "gold-plan", "vote"], "decode": {"steps": 12}, "writing": {}, "dtype": null, "device": null, "preset": "quick", "stop_when": "", "adapter": ""}, "versions": {"triaxis": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.24.0", "tokenizers": "0.23.3", "numpy": "2.4.6", "scipy": "1.17.1", "python": "3.11.7"}}');
INSERT INTO "meta" VALUES('seconds','0.3721707749999723');
INSERT INTO "meta" VALUES('grader','numeric-1');
INSERT INTO "meta" VALUES('items','2');
INSERT INTO "meta" VALUES('sources','b27bfb357628469c');
CREATE TABLE plans (id TEXT NOT NULL PRIMARY KEY, item TEXT NOT NULL, source TEXT NOT NULL, seed INTEGER NOT NULL, text TEXT NOT NULL, tokens INTEGER NOT NULL, truncated INTEGER NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "plans" VALUES('0d967c294efb708e','gradeschool-test-0888','filler:gold',0,'The weather and the sky are calm and clear today and so it goes all day long. The weather and the sky are calm and clear today and so it',31,0,'{"implied": null, "steps_right": false, "leaks": false, "gold": "8"}');
INSERT INTO "plans" VALUES('4cf8463c50547ba2','gradeschool-test-0888','gold',0,'31 minus 13 is 18, then 18 divided by 3 is 6, then 6 divided by 2 is 3, then 3 plus 5.',31,0,'{"implied": "8", "steps_right": true, "leaks": false, "gold": "8"}');
INSERT INTO "plans" VALUES('88ed250d2f2839ec','gradeschool-test-1651','gold',0,'87 minus 16 is 71, then 71 minus 41.',16,0,'{"implied": "30", "steps_right": true, "leaks": false, "gold": "30"}');
INSERT INTO "plans" VALUES('c092e575dc7a698c','gradeschool-test-1651','filler:gold',0,'The weather and the sky are calm and clear today and so it goes all day',16,0,'{"implied": null, "steps_right": false, "leaks": false, "gold": "30"}');
CREATE TABLE rows (id TEXT NOT NULL PRIMARY KEY, condition TEXT NOT NULL, item TEXT NOT NULL, branch INTEGER NOT NULL, seed INTEGER NOT NULL, plan TEXT NOT NULL, prompt TEXT NOT NULL, text TEXT NOT NULL, tokens INTEGER NOT NULL, forwards INTEGER NOT NULL, ended INTEGER NOT NULL, length INTEGER NOT NULL, confidence REAL NOT NULL, trace TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "rows" VALUES('03d3781daeace633','plan-empty','gradeschool-test-1651',0,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.
Plan: ','87-16=61
61-41=20
#### 20',498,6,1,20,-0.012,'{"order":[0,1,0,1,0,0,1,1,3,2,2,2,3,3,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('10cadc5be4ae4480','filler','gradeschool-test-0888',0,0,'0d967c294efb708e','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?
Plan: The weather and the sky are calm and clear today and so it goes all day long. The weather and the sky are calm and clear today and so it','31-13=88
88/2=39
39+5=41
41+5=37
#### 37',1470,10,1,35,-0.17,'{"order":[0,0,0,1,0,1,1,1,2,3,2,2,3,2,3,3,4,4,4,5,5,4,5,5,6,6,6,7,6,7,7,7,9,9,9]}');
INSERT INTO "rows" VALUES('188b739b60e7afd7','vote','gradeschool-test-0888',0,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?','31-13=18
18/3=4
4/2=2
2+5=8
#### 8',904,8,1,29,-0.181,'{"order":[0,1,1,0,0,0,1,1,2,2,3,2,3,2,3,3,4,5,4,4,5,4,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('234d4da5068531cb','none','gradeschool-test-1651',0,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.','87-16=71
71-41=30
#### 30',474,6,1,20,-0.031,'{"order":[1,0,0,1,0,0,1,1,2,3,3,3,2,2,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('29013d4ed8db271c','vote','gradeschool-test-0888',2,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?','31-13=18
18/3=8
8/2=6
4+5=1
#### 9',904,8,1,29,-0.117,'{"order":[0,1,1,0,0,0,1,1,2,2,3,2,3,2,3,3,4,4,4,4,5,5,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('319c325ff3fd5935','plan-empty','gradeschool-test-0888',0,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?
Plan: ','31-13=1
1/3=1
1/2=1
1+5=6
#### 6',936,8,1,27,-0.113,'{"order":[1,1,0,0,0,0,1,1,2,2,2,2,3,3,3,3,4,4,5,4,5,5,5,4,6,7,6]}');
INSERT INTO "rows" VALUES('43b0e9f239f02cf5','gold-plan','gradeschool-test-0888',0,0,'4cf8463c50547ba2','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?
Plan: 31 minus 13 is 18, then 18 divided by 3 is 6, then 6 divided by 2 is 3, then 3 plus 5.','31-13=18
18/3=6
6/2=3
3+5=9
#### 9',1176,8,1,29,-0.118,'{"order":[0,0,0,0,1,1,1,1,2,2,3,2,3,2,3,3,4,4,5,4,5,4,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('556887d81a9c4524','vote','gradeschool-test-0888',1,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?','31-13=18
18/3=3
3/2=1
1+5=6
#### 6',904,8,1,29,-0.107,'{"order":[0,1,1,0,0,0,1,1,2,2,3,2,3,2,3,3,4,5,4,4,5,4,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('8395634e54428c37','filler','gradeschool-test-1651',0,0,'c092e575dc7a698c','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.
Plan: The weather and the sky are calm and clear today and so it goes all day','87-16=61
61-41=20
#### 20',588,6,1,20,-0.02,'{"order":[0,1,0,1,0,0,1,1,3,2,2,2,3,3,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('8b51e62901636696','none','gradeschool-test-0888',0,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?','31-13=18
18/3=4
4/2=2
2+5=6
#### 7',904,8,1,29,-0.127,'{"order":[0,1,1,0,0,0,1,1,2,2,3,2,3,2,3,3,4,5,4,4,5,4,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('942054e62b1ba6ca','gold-plan','gradeschool-test-1651',0,0,'88ed250d2f2839ec','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.
Plan: 87 minus 16 is 71, then 71 minus 41.','87-16=71
71-41=30
#### 30',588,6,1,20,-0.017,'{"order":[1,0,0,1,0,0,1,1,2,2,3,2,3,3,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('bdb25c9796f5d3f7','vote','gradeschool-test-1651',2,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.','87-16=71
71-41=20
#### 20',474,6,1,20,-0.055,'{"order":[1,0,0,1,0,0,1,1,2,3,3,3,2,2,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('dc034c33576139e5','vote','gradeschool-test-1651',4,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.','87-16=71
71-41=30
#### 30',474,6,1,20,-0.031,'{"order":[1,0,0,1,0,0,1,1,2,3,3,3,2,2,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('dd7dd5ff5a145092','vote','gradeschool-test-0888',3,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?','31-13=18
18/3=6
6/2=3
3+5=9
#### 8',904,8,1,29,-0.12,'{"order":[0,1,1,0,0,0,1,1,2,2,3,2,3,2,3,3,4,4,4,4,5,5,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('df34c881c23ef92b','vote','gradeschool-test-0888',4,0,'','There are 31 pens. 13 are taken away. Ben puts them into 3 equal rows and counts one row. A card reads "plan" or "hint". The pens are split into 2 equal groups and Ben keeps one group. Ben finds 5 more pens. How many pens does Ben have now?','31-13=18
18/3=8
8/2=6
4+5=1
#### 9',904,8,1,29,-0.117,'{"order":[0,1,1,0,0,0,1,1,2,2,3,2,3,2,3,3,4,4,4,4,5,5,5,5,6,6,7,7,7]}');
INSERT INTO "rows" VALUES('df9492c300bb84bd','vote','gradeschool-test-1651',3,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.','87-16=71
71-41=30
#### 30',474,6,1,20,-0.031,'{"order":[1,0,0,1,0,0,1,1,2,3,3,3,2,2,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('e7f83118c3983b67','vote','gradeschool-test-1651',0,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.','87-16=71
71-41=20
#### 20',474,6,1,20,-0.055,'{"order":[1,0,0,1,0,0,1,1,2,3,3,3,2,2,2,3,5,5,5,5]}');
INSERT INTO "rows" VALUES('fce3e642288c05e0','vote','gradeschool-test-1651',1,0,'','Ana has 87 apples. 16 are taken away. 41 of the apples break. Say how many apples there are in the end.','87-16=71
71-41=30
#### 30',474,6,1,20,-0.031,'{"order":[1,0,0,1,0,0,1,1,2,3,3,3,2,2,2,3,5,5,5,5]}');
COMMIT;
