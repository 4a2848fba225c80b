-- Books of tpw-exporter 0.1.0: two runs on stand-in GPUs with a server like vLLM, the second one ended by SIGKILL.
BEGIN TRANSACTION;
CREATE TABLE gpu (uuid TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "gpu" VALUES('GPU-00000000-1111-2222-3333-444455556666','{"index":0,"name":"NVIDIA H100 80GB HBM3","vendor":"nvidia","architecture":"hopper","driver_version":"580.95.05","pci_bus_id":"00000000:10:00.0","power_scope":"gpu","energy_method":"counter","max_power_watts":700.0,"baseline_joules":1006746.516,"baseline_wall_seconds":1795562665.3780067,"mark_joules":null,"pending":[],"away_since_seconds":null,"unmetered_seconds":0.0,"anomalies":{},"throttle_seconds":{"sw_power_cap":0.0,"sw_thermal":0.0,"hw_thermal":0.0,"hw_power_brake":0.0},"throttle_raw":{"sw_power_cap":0.0,"sw_thermal":0.0,"hw_thermal":0.0,"hw_power_brake":0.0},"instance_joules":[]}');
INSERT INTO "gpu" VALUES('GPU-00000001-1111-2222-3333-444455556666','{"index":1,"name":"NVIDIA H100 80GB HBM3","vendor":"nvidia","architecture":"hopper","driver_version":"580.95.05","pci_bus_id":"00000000:11:00.0","power_scope":"gpu","energy_method":"counter","max_power_watts":700.0,"baseline_joules":1006746.508,"baseline_wall_seconds":1795562665.3780067,"mark_joules":null,"pending":[],"away_since_seconds":null,"unmetered_seconds":0.0,"anomalies":{},"throttle_seconds":{"sw_power_cap":0.0,"sw_thermal":0.0,"hw_thermal":0.0,"hw_power_brake":0.0},"throttle_raw":{"sw_power_cap":0.0,"sw_thermal":0.0,"hw_thermal":0.0,"hw_power_brake":0.0},"instance_joules":[]}');
CREATE TABLE host (component TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE interval (start INTEGER, gpu TEXT, server TEXT, model TEXT, state TEXT,
  unpriced INTEGER NOT NULL, data TEXT NOT NULL, PRIMARY KEY (start, gpu, server, model, state)) WITHOUT ROWID;
INSERT INTO "interval" VALUES(1795562100,'GPU-00000000-1111-2222-3333-444455556666','chat','m','active',0,'{"seconds":18.508885383605957,"joules":5928.0,"facility_joules":5928.0,"cost":{"hardware":0.004401846790241142,"fixed":0.00010711160522920115,"energy":0.000494}}');
INSERT INTO "interval" VALUES(1795562100,'GPU-00000001-1111-2222-3333-444455556666','','','idle',0,'{"seconds":18.508885383605957,"joules":5928.0,"facility_joules":5928.0,"cost":{"hardware":0.004401846790241142,"fixed":0.00010711160522920115,"energy":0.000494}}');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('at_wall_seconds','1795562665.3780067');
INSERT INTO "meta" VALUES('contract','{"month_kwh":[],"standing_since_seconds":null,"peaks":{}}');
INSERT INTO "meta" VALUES('currency','EUR');
INSERT INTO "meta" VALUES('host_carry_joules','0.0');
INSERT INTO "meta" VALUES('layout','1');
INSERT INTO "meta" VALUES('polls','19');
INSERT INTO "meta" VALUES('polls_skipped','0');
CREATE TABLE posting (gpu TEXT, server TEXT, model TEXT, state TEXT, data TEXT NOT NULL,
  PRIMARY KEY (gpu, server, model, state)) WITHOUT ROWID;
INSERT INTO "posting" VALUES('GPU-00000000-1111-2222-3333-444455556666','chat','m','active','{"seconds":18.508885383605957,"joules":5928.0,"facility_joules":5928.0,"cost":{"hardware":0.004401846790241142,"fixed":0.00010711160522920115,"energy":0.000494}}');
INSERT INTO "posting" VALUES('GPU-00000001-1111-2222-3333-444455556666','','','idle','{"seconds":18.508885383605957,"joules":5928.0,"facility_joules":5928.0,"cost":{"hardware":0.004401846790241142,"fixed":0.00010711160522920115,"energy":0.000494}}');
CREATE TABLE served (start INTEGER, server TEXT, model TEXT, data TEXT NOT NULL,
  PRIMARY KEY (start, server, model)) WITHOUT ROWID;
INSERT INTO "served" VALUES(1795562100,'chat','m','{"tokens":{"output":3702.2681706001094,"input":9255.670426500274},"requests":19.0,"reference_cost":{"api":0.010181237469150301}}');
CREATE TABLE server (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "server" VALUES('chat','{"engine":"vllm","cadence":"step","version":"","attribution":"configured","since_wall_seconds":1795562646.8691216,"identity":"page:1795562644.8813732","address":"http://127.0.0.1:8000","series":{"vllm:generation_tokens_total{model_name=\"m\"}":4099.247136000122,"vllm:prompt_tokens_total{model_name=\"m\"}":10248.117840000305,"vllm:request_success_total{model_name=\"m\"}":20.0},"counted":[["m","output",3702.2681706001094],["m","prompt",9255.670426500274]],"tokens":[["m","output",3702.2681706001094],["m","input",9255.670426500274]],"work":[],"requests":{"m":19.0},"models":["m"],"reference_cost":[["m","api",0.010181237469150301]]}');
CREATE TABLE source (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "source" VALUES('nvml','{"reads":21,"failures":{}}');
INSERT INTO "source" VALUES('server:chat','{"reads":19,"failures":{}}');
INSERT INTO "source" VALUES('tariff','{"reads":2,"failures":{}}');
CREATE INDEX interval_unpriced ON interval (start) WHERE unpriced = 1;
COMMIT;