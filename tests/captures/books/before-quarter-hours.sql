-- Books as a tpw-exporter wrote them that knew no rows, demand or late prices: forty minutes of two boards, one lost for ten.
BEGIN TRANSACTION;
CREATE TABLE gpu (uuid TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "gpu" VALUES('GPU-0','{"index":0,"name":"","vendor":"nvidia","architecture":"","driver_version":"","pci_bus_id":"","power_scope":"gpu","energy_method":"counter","max_power_watts":1000.0,"baseline_joules":702100.0,"baseline_wall_seconds":1790002340.0,"pending":[],"unmetered_seconds":0.0,"anomalies":{},"throttle_seconds":{},"throttle_raw":{}}');
INSERT INTO "gpu" VALUES('GPU-1','{"index":1,"name":"","vendor":"nvidia","architecture":"","driver_version":"","pci_bus_id":"","power_scope":"gpu","energy_method":"counter","max_power_watts":1000.0,"baseline_joules":540100.0,"baseline_wall_seconds":1790001800.0,"pending":[[1790001800.0,1790002340.0,[["GPU-1","","","idle",1.0]]]],"unmetered_seconds":0.0,"anomalies":{},"throttle_seconds":{},"throttle_raw":{}}');
CREATE TABLE host (component TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "host" VALUES('cpu','{"joules":117000.0}');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "meta" VALUES('at_wall_seconds','1790002340.0');
INSERT INTO "meta" VALUES('currency','EUR');
INSERT INTO "meta" VALUES('host_carry_joules','0.0');
INSERT INTO "meta" VALUES('layout','1');
INSERT INTO "meta" VALUES('polls','40');
INSERT INTO "meta" VALUES('polls_skipped','0');
CREATE TABLE posting (gpu TEXT, server TEXT, model TEXT, state TEXT, data TEXT NOT NULL,
  PRIMARY KEY (gpu, server, model, state)) WITHOUT ROWID;
INSERT INTO "posting" VALUES('GPU-0','s','m','active','{"seconds":2340.0,"joules":702000.0,"facility_joules":928799.9999999999,"unpriced_joules":292800.0,"credit":0.008833333333333334,"cost":{"hardware":0.7020000000000003,"energy":0.026500000000000003},"emissions_grams":{}}');
INSERT INTO "posting" VALUES('GPU-1','','','idle','{"seconds":2340.0,"joules":540000.0,"facility_joules":701999.9999999999,"unpriced_joules":233999.99999999997,"credit":0.006500000000000001,"cost":{"hardware":0.7020000000000003,"energy":0.019499999999999997},"emissions_grams":{}}');
CREATE TABLE server (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "server" VALUES('s','{"engine":"vllm","cadence":"step","version":"1","attribution":"configured","since_wall_seconds":1789999940.0,"identity":"page:1.0","series":{"o":390.0},"counted":[["m","output",390.0]],"tokens":[["m","output",390.0]],"work":[],"requests":{},"models":["m"],"reference_cost":[["m","r",2.3400000000000016]]}');
CREATE TABLE source (name TEXT PRIMARY KEY, data TEXT NOT NULL) WITHOUT ROWID;
COMMIT;
