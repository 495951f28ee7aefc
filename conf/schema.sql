-- Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
--
-- The database of mod_usage_events, for PostgreSQL 14 and later. `usagectl
-- init-db` applies it, as often as one likes. In a new database, and only
-- there,
--
--   psql -1 -v ON_ERROR_STOP=1 -f schema.sql
--
-- does the same. A second time it is refused, since a table that is there
-- already may be somebody else's.
--
-- It is a list of versions, each of which begins with a line "-- version N" and
-- ends by writing itself down. What is there is never edited once it was
-- published: a change is a new version behind the last. init-db runs those that
-- usage_schema_version lacks, and what comes behind the line "-- always" each
-- time, all in one transaction.
--
-- Everything is made in the schema that search_path names first (public, where
-- nobody has changed that).
--
-- Who may do what: the owner (who ran this) and what it grants to; usagectl
-- works as the owner. A gateway needs the role usage_gateway and no more:
--
--   CREATE ROLE gateway1 LOGIN PASSWORD '…' IN ROLE usage_gateway;

-- version 1: organizations, plans and keys

CREATE TABLE usage_schema_version (
    version integer PRIMARY KEY,
    applied timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE usage_schema_version IS
    'Versions of conf/schema.sql that this database has';
COMMENT ON COLUMN usage_schema_version.version IS 'N of "-- version N"';
COMMENT ON COLUMN usage_schema_version.applied IS 'When it was applied';

-- Lists of what restricts a key. An empty list can't be told from one that lets
-- nothing in, so it is not taken, nor is NULL as one of its entries. Rates and
-- quotas are from 1 to 1,000,000,000, as src/rate.h has them. Names and hashes
-- are compared byte by byte, so no other collation orders their indexes.
CREATE TABLE plans (
    name text COLLATE "C" PRIMARY KEY
        CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    rate text
        CHECK (rate ~ ('^([1-9][0-9]{0,8}|10{9})/[smh]'
                       '( burst=([1-9][0-9]{0,8}|10{9}))?$')),
    quota text
        CHECK (quota ~ '^([1-9][0-9]{0,8}|10{9})/(hour|day|month)$'),
    networks text[]
        CHECK (cardinality(networks) > 0
               AND array_position(networks, NULL) IS NULL),
    paths text[]
        CHECK (cardinality(paths) > 0
               AND array_position(paths, NULL) IS NULL),
    methods text[]
        CHECK (cardinality(methods) > 0
               AND array_position(methods, NULL) IS NULL),
    billable boolean NOT NULL DEFAULT true,
    created timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created))
);
COMMENT ON TABLE plans IS 'What organizations and keys may do, under a name';
COMMENT ON COLUMN plans.name IS
    'Up to 64 letters, digits, dots, dashes and underscores';

CREATE TABLE organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    plan text COLLATE "C" REFERENCES plans (name),
    rate text
        CHECK (rate ~ ('^([1-9][0-9]{0,8}|10{9})/[smh]'
                       '( burst=([1-9][0-9]{0,8}|10{9}))?$')),
    quota text
        CHECK (quota ~ '^([1-9][0-9]{0,8}|10{9})/(hour|day|month)$'),
    networks text[]
        CHECK (cardinality(networks) > 0
               AND array_position(networks, NULL) IS NULL),
    paths text[]
        CHECK (cardinality(paths) > 0
               AND array_position(paths, NULL) IS NULL),
    methods text[]
        CHECK (cardinality(methods) > 0
               AND array_position(methods, NULL) IS NULL),
    billable boolean NOT NULL DEFAULT true,
    created timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created))
);
CREATE INDEX organizations_plan
    ON organizations (plan) WHERE plan IS NOT NULL;
COMMENT ON TABLE organizations IS 'Who is billed';
COMMENT ON COLUMN organizations.id IS 'As events and X-Organization-Id have it';
COMMENT ON COLUMN organizations.name IS 'For people; gateways don''t see it';
COMMENT ON COLUMN organizations.plan IS 'Of its keys that have none';

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations (id),
    hash text COLLATE "C" NOT NULL UNIQUE
        CHECK (hash ~ '^(hmac-)?sha256:[0-9a-f]{64}$'),
    prefix text,
    name text,
    plan text COLLATE "C" REFERENCES plans (name),
    rate text
        CHECK (rate ~ ('^([1-9][0-9]{0,8}|10{9})/[smh]'
                       '( burst=([1-9][0-9]{0,8}|10{9}))?$')),
    quota text
        CHECK (quota ~ '^([1-9][0-9]{0,8}|10{9})/(hour|day|month)$'),
    networks text[]
        CHECK (cardinality(networks) > 0
               AND array_position(networks, NULL) IS NULL),
    paths text[]
        CHECK (cardinality(paths) > 0
               AND array_position(paths, NULL) IS NULL),
    methods text[]
        CHECK (cardinality(methods) > 0
               AND array_position(methods, NULL) IS NULL),
    billable boolean NOT NULL DEFAULT true,
    created timestamptz NOT NULL DEFAULT now() CHECK (isfinite(created)),
    expires timestamptz CHECK (expires > '1970-01-01 00:00:00+00'
                               AND expires < '10000-01-01 00:00:00+00'),
    revoked timestamptz CHECK (isfinite(revoked)),
    replaces uuid REFERENCES api_keys (id)
);
CREATE INDEX api_keys_organization_id
    ON api_keys (organization_id);
CREATE INDEX api_keys_plan
    ON api_keys (plan) WHERE plan IS NOT NULL;
CREATE INDEX api_keys_replaces
    ON api_keys (replaces) WHERE replaces IS NOT NULL;
COMMENT ON TABLE api_keys IS 'Keys, by their hashes alone';
COMMENT ON COLUMN api_keys.id IS 'As events and X-Api-Key-Id have it';
COMMENT ON COLUMN api_keys.organization_id IS 'Whose it is, who is billed';
COMMENT ON COLUMN api_keys.hash IS
    'sha256: or hmac-sha256: (UsageKeySecret) of the whole key, in lower-case '
    'hex';
COMMENT ON COLUMN api_keys.prefix IS
    'Its first 12 characters, to be shown; NULL where it has fewer than 24';
COMMENT ON COLUMN api_keys.name IS 'For people; gateways don''t see it';
COMMENT ON COLUMN api_keys.plan IS 'Instead of its organization''s';
COMMENT ON COLUMN api_keys.expires IS 'Works until then; NULL: for ever';
COMMENT ON COLUMN api_keys.revoked IS
    'Works no more, as soon as this is set, whatever the time';
COMMENT ON COLUMN api_keys.replaces IS 'The key it was rotated from';

-- What all three have.
DO $$
DECLARE
    t text;
    name text;
    what text;
BEGIN
    FOREACH t IN ARRAY ARRAY['plans', 'organizations', 'api_keys'] LOOP
        FOR name, what IN VALUES
            ('rate', 'Requests in a time, such as 100/s burst=200'),
            ('quota', 'Requests in a period, such as 10000/month'),
            ('networks', 'Addresses that may use its keys, such as '
                         '{192.0.2.0/24}; NULL: all'),
            ('paths', 'Paths, or prefixes that end in a slash, such as '
                      '{/v1/}; NULL: all'),
            ('methods', 'Methods, such as {GET,POST}; GET stands for HEAD, '
                        'too; NULL: all'),
            ('billable', 'false: recorded, but not billed'),
            ('created', 'When it was made')
        LOOP
            EXECUTE format('COMMENT ON COLUMN %I.%I IS %L', t, name, what);
        END LOOP;
    END LOOP;
END
$$;

CREATE TABLE api_key_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,
    what text NOT NULL,
    plan text COLLATE "C",
    organization_id uuid,
    api_key_id uuid,
    before jsonb,
    after jsonb
);
CREATE INDEX api_key_changes_api_key_id
    ON api_key_changes (api_key_id);
COMMENT ON TABLE api_key_changes IS
    'Each change of a plan, organization or key, by whatever program';
COMMENT ON COLUMN api_key_changes.id IS
    'Of two changes of a row the later one has the higher id';
COMMENT ON COLUMN api_key_changes.at IS 'When, before it was committed';
COMMENT ON COLUMN api_key_changes.who IS
    'The database''s user, and in brackets what usagectl says of its own';
COMMENT ON COLUMN api_key_changes.what IS
    'insert, update, delete or truncate, and the table';
COMMENT ON COLUMN api_key_changes.plan IS 'The plan, or what the row names';
COMMENT ON COLUMN api_key_changes.organization_id IS
    'The organization, or whose the key is';
COMMENT ON COLUMN api_key_changes.api_key_id IS 'The key';
COMMENT ON COLUMN api_key_changes.before IS 'The row before, without the hash';
COMMENT ON COLUMN api_key_changes.after IS
    'The row after, without the hash; "hash": "changed" where that was';

-- Whoever may change a table may do no more than that: what follows from it is
-- done by the owner, in the owner's schema. All rows of a statement are written
-- down at once, which a load of a million keys is grateful for. TG_ARGV[0] is
-- the primary key, by which the rows before and after an update are matched.
CREATE FUNCTION usage_log_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    who text := session_user || coalesce(
        ' (' || nullif(current_setting('usage.who', true), '') || ')', '');
    plan_is text := CASE TG_TABLE_NAME WHEN 'plans' THEN 'name'
                                       ELSE 'plan' END;
    organization_is text := CASE TG_TABLE_NAME
        WHEN 'organizations' THEN 'id'
        WHEN 'api_keys' THEN 'organization_id' END;
    key_is text := CASE TG_TABLE_NAME WHEN 'api_keys' THEN 'id' END;
    changed text := CASE TG_OP
        WHEN 'INSERT' THEN 'SELECT NULL::jsonb, to_jsonb(n) FROM new_rows n'
        WHEN 'DELETE' THEN 'SELECT to_jsonb(o), NULL::jsonb FROM old_rows o'
        WHEN 'UPDATE' THEN format(
            'SELECT to_jsonb(o), to_jsonb(n) '
            'FROM old_rows o FULL JOIN new_rows n USING (%I) '
            'WHERE to_jsonb(o) IS DISTINCT FROM to_jsonb(n)', TG_ARGV[0])
        ELSE 'SELECT NULL::jsonb, NULL::jsonb' END;
BEGIN
    EXECUTE 'INSERT INTO api_key_changes '
        '(who, what, plan, organization_id, api_key_id, before, after) '
        'SELECT $1, $2, coalesce(a, b) ->> $3, '
        '(coalesce(a, b) ->> $4)::uuid, (coalesce(a, b) ->> $5)::uuid, '
        'b - ''hash'', a - ''hash'' || CASE '
        'WHEN b ->> ''hash'' <> a ->> ''hash'' '
        'THEN ''{"hash": "changed"}'' ELSE ''{}'' END::jsonb '
        'FROM (' || changed || ') AS changed (b, a)'
    USING who, lower(TG_OP) || ' ' || TG_TABLE_NAME, plan_is, organization_is,
        key_is;
    RETURN NULL;
END
$$;

-- Gateways hear of each changed key by its hash, of many at once by '*'.
CREATE FUNCTION usage_notify_hashes(hashes text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF cardinality(hashes) > 1000 THEN
        PERFORM pg_notify('usage_keys', '*');
    ELSE
        PERFORM pg_notify('usage_keys', split_part(h, ':', 2))
        FROM unnest(hashes) AS h;
    END IF;
END
$$;

-- Who changes an organization or a plan can't see the keys that somebody else
-- is making, or moving to it, and hasn't committed, so that he can't tell of
-- them; and gateways, told of them, may look them up before he is done. So who
-- makes or moves a key holds what bears on it, and one of the two waits for the
-- other. All take keys first, then organizations, then plans, each by their
-- primary keys, so that single statements don't wait for one another in a
-- circle. Any other change of a key, such as its end, holds nobody up and waits
-- for nobody.
--
-- What holds is planned each time: a plan for one row is none for a million. Of
-- the hashes, one more than what makes them '*' is enough to know.
CREATE FUNCTION usage_notify_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    placed text := CASE TG_OP
        WHEN 'INSERT' THEN 'SELECT organization_id, plan FROM new_rows'
        WHEN 'UPDATE' THEN
            'SELECT n.organization_id, n.plan '
            'FROM new_rows n LEFT JOIN old_rows o USING (id) '
            'WHERE (n.hash, n.organization_id, n.plan) '
            'IS DISTINCT FROM (o.hash, o.organization_id, o.plan)' END;
BEGIN
    IF placed IS NOT NULL THEN
        EXECUTE 'SELECT FROM organizations WHERE id IN '
            '(SELECT organization_id FROM (' || placed || ') AS k) '
            'ORDER BY id FOR SHARE';
        EXECUTE 'SELECT FROM plans WHERE name IN '
            '(SELECT coalesce(k.plan, o.plan) FROM (' || placed || ') AS k '
            'JOIN organizations o ON o.id = k.organization_id) '
            'ORDER BY name FOR SHARE';
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('usage_keys', '*');
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM usage_notify_hashes(ARRAY(
            SELECT hash FROM new_rows LIMIT 1001));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM usage_notify_hashes(ARRAY(
            SELECT hash FROM old_rows LIMIT 1001));
    ELSE
        PERFORM usage_notify_hashes(ARRAY(
            SELECT hash FROM old_rows UNION SELECT hash FROM new_rows
            LIMIT 1001));
    END IF;
    RETURN NULL;
END
$$;

-- Who sees all as it was when he began (REPEATABLE READ) knows of no key that
-- was made since, so that he can only say that everything may have changed.
CREATE FUNCTION usage_notify_organizations() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE 'SELECT FROM plans WHERE name IN '
        '(SELECT n.plan FROM new_rows n LEFT JOIN old_rows o USING (id) '
        'WHERE n.plan IS DISTINCT FROM o.plan) ORDER BY name FOR SHARE';
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM pg_notify('usage_keys', '*') FROM new_rows LIMIT 1;
    ELSE
        PERFORM usage_notify_hashes(ARRAY(
            SELECT k.hash FROM api_keys k JOIN new_rows o
                ON o.id = k.organization_id
            LIMIT 1001));
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION usage_notify_plans() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM pg_notify('usage_keys', '*') FROM new_rows LIMIT 1;
    ELSE
        PERFORM usage_notify_hashes(ARRAY(
            SELECT k.hash FROM api_keys k JOIN new_rows p ON p.name = k.plan
            UNION ALL
            SELECT k.hash FROM organizations o
                JOIN new_rows p ON p.name = o.plan
                JOIN api_keys k ON k.organization_id = o.id AND k.plan IS NULL
            LIMIT 1001));
    END IF;
    RETURN NULL;
END
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_log_changes()',
        'usage_notify_hashes(text[])', 'usage_notify_keys()',
        'usage_notify_organizations()', 'usage_notify_plans()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp',
                       name, current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END
$$;

DO $$
DECLARE
    t text;
    k text;
BEGIN
    FOR t, k IN VALUES ('plans', 'name'), ('organizations', 'id'),
                       ('api_keys', 'id')
    LOOP
        EXECUTE format(
            'CREATE TRIGGER usage_log_insert AFTER INSERT ON %1$I '
            'REFERENCING NEW TABLE AS new_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION usage_log_changes(%2$L); '
            'CREATE TRIGGER usage_log_update AFTER UPDATE ON %1$I '
            'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION usage_log_changes(%2$L); '
            'CREATE TRIGGER usage_log_delete AFTER DELETE ON %1$I '
            'REFERENCING OLD TABLE AS old_rows '
            'FOR EACH STATEMENT EXECUTE FUNCTION usage_log_changes(%2$L); '
            'CREATE TRIGGER usage_log_truncate '
            'AFTER TRUNCATE ON %1$I '
            'FOR EACH STATEMENT EXECUTE FUNCTION usage_log_changes(%2$L)',
            t, k);
    END LOOP;
END
$$;

CREATE TRIGGER usage_notify_insert AFTER INSERT ON api_keys
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION usage_notify_keys();
CREATE TRIGGER usage_notify_update AFTER UPDATE ON api_keys
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION usage_notify_keys();
CREATE TRIGGER usage_notify_delete AFTER DELETE ON api_keys
    REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION usage_notify_keys();
CREATE TRIGGER usage_notify_truncate AFTER TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION usage_notify_keys();
-- Neither can be deleted while a key needs it, and a new one has none yet.
CREATE TRIGGER usage_notify_update AFTER UPDATE ON organizations
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION usage_notify_organizations();
CREATE TRIGGER usage_notify_update AFTER UPDATE ON plans
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION usage_notify_plans();

-- All that a gateway may see. Its columns are an interface: later versions may
-- add to them.
CREATE VIEW usage_gateway_keys AS
SELECT k.hash,
       k.id AS api_key_id,
       k.organization_id,
       (extract(epoch FROM k.expires) * 1000000)::bigint AS expires,
       k.revoked IS NOT NULL AS revoked,
       k.billable AND o.billable AND coalesce(p.billable, true) AS billable,
       CASE WHEN num_nonnulls(p.networks, p.paths, p.methods,
                              o.networks, o.paths, o.methods,
                              k.networks, k.paths, k.methods) > 0
            THEN json_build_array(
                json_build_object('networks', p.networks, 'paths', p.paths,
                                  'methods', p.methods),
                json_build_object('networks', o.networks, 'paths', o.paths,
                                  'methods', o.methods),
                json_build_object('networks', k.networks, 'paths', k.paths,
                                  'methods', k.methods))
       END AS access
FROM api_keys k
    JOIN organizations o ON o.id = k.organization_id
    LEFT JOIN plans p ON p.name = coalesce(k.plan, o.plan);
COMMENT ON VIEW usage_gateway_keys IS
    'What gateways look up: a key by its hash, with all that bears on it';
COMMENT ON COLUMN usage_gateway_keys.expires IS
    'Microseconds since 1970; NULL: never';
COMMENT ON COLUMN usage_gateway_keys.access IS
    'The lists of plan, organization and key; NULL: it may be used everywhere';

INSERT INTO usage_schema_version (version) VALUES (1);

-- version 2: rates and quotas reach gateways

-- A plan that the key itself has counts the requests of this key. Its
-- organization's counts those of all its keys that have none themselves.
CREATE OR REPLACE VIEW usage_gateway_keys AS
SELECT k.hash,
       k.id AS api_key_id,
       k.organization_id,
       (extract(epoch FROM k.expires) * 1000000)::bigint AS expires,
       k.revoked IS NOT NULL AS revoked,
       k.billable AND o.billable AND coalesce(p.billable, true) AS billable,
       CASE WHEN num_nonnulls(p.networks, p.paths, p.methods,
                              o.networks, o.paths, o.methods,
                              k.networks, k.paths, k.methods) > 0
            THEN json_build_array(
                json_build_object('networks', p.networks, 'paths', p.paths,
                                  'methods', p.methods),
                json_build_object('networks', o.networks, 'paths', o.paths,
                                  'methods', o.methods),
                json_build_object('networks', k.networks, 'paths', k.paths,
                                  'methods', k.methods))
       END AS access,
       CASE WHEN num_nonnulls(p.rate, p.quota, o.rate, o.quota,
                              k.rate, k.quota) > 0
            THEN json_build_object(
                'key', json_build_object(
                    'rate', coalesce(k.rate, CASE WHEN k.plan IS NOT NULL
                                                  THEN p.rate END),
                    'quota', coalesce(k.quota, CASE WHEN k.plan IS NOT NULL
                                                    THEN p.quota END)),
                'org', json_build_object(
                    'rate', coalesce(o.rate, CASE WHEN k.plan IS NULL
                                                  THEN p.rate END),
                    'quota', coalesce(o.quota, CASE WHEN k.plan IS NULL
                                                    THEN p.quota END)))
       END AS limits
FROM api_keys k
    JOIN organizations o ON o.id = k.organization_id
    LEFT JOIN plans p ON p.name = coalesce(k.plan, o.plan);
COMMENT ON COLUMN usage_gateway_keys.limits IS
    'Rate and quota of the key, and of its organization; NULL: there are none';

INSERT INTO usage_schema_version (version) VALUES (2);

-- always: who may read

-- Who may not make roles, or isn't the owner, leaves this to somebody who may.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'usage_gateway') THEN
        CREATE ROLE usage_gateway NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'no right to make the role usage_gateway: let somebody '
            'who has it run CREATE ROLE usage_gateway, and init-db again';
    WHEN duplicate_object OR unique_violation THEN
        NULL; -- made by another init-db, of another database, at this moment
END
$$;

-- Each of it by name, since what a role has because everybody has it ends when
-- somebody takes it from PUBLIC. What is granted already is not granted again,
-- since that needs rights, too.
DO $$
DECLARE
    gateway oid := (SELECT oid FROM pg_roles WHERE rolname = 'usage_gateway');
    home text := current_schema();
    base text := current_database();
    granted text[] := ARRAY(
        SELECT 'schema' FROM pg_namespace, aclexplode(nspacl)
        WHERE nspname = home AND grantee = gateway AND privilege_type = 'USAGE'
        UNION ALL
        SELECT 'database' FROM pg_database, aclexplode(datacl)
        WHERE datname = base AND grantee = gateway
            AND privilege_type = 'CONNECT'
        UNION ALL
        SELECT 'view' FROM pg_class, aclexplode(relacl)
        WHERE oid = 'usage_gateway_keys'::regclass AND grantee = gateway
            AND privilege_type = 'SELECT');
BEGIN
    IF gateway IS NULL THEN
        RETURN;
    END IF;
    IF 'schema' <> ALL (granted)
        AND has_schema_privilege(home, 'USAGE WITH GRANT OPTION')
    THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO usage_gateway', home);
    END IF;
    IF 'database' <> ALL (granted)
        AND has_database_privilege(base, 'CONNECT WITH GRANT OPTION')
    THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO usage_gateway', base);
    END IF;
    IF 'view' <> ALL (granted) AND has_table_privilege(
        'usage_gateway_keys', 'SELECT WITH GRANT OPTION')
    THEN
        GRANT SELECT ON usage_gateway_keys TO usage_gateway;
    END IF;
    IF NOT (has_schema_privilege(gateway, home, 'USAGE')
            AND has_database_privilege(gateway, base, 'CONNECT')
            AND has_table_privilege(gateway, 'usage_gateway_keys', 'SELECT'))
    THEN
        RAISE WARNING 'no right to grant what the role usage_gateway needs: '
            'let the owner run init-db';
    END IF;
END
$$;
