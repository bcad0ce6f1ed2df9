-- Slugs and names in the form that the service accepts.
--
-- depends: 0022.readiness
-- phase: expand
-- lock: ACCESS EXCLUSIVE on categories and products, briefly: old rows are read before, and changed if they have to be
-- undo: drops the constraints

SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '60s';

-- Older code accepted a few slugs in another normal form, and control characters in names.
UPDATE categories SET slug = normalize(slug)
WHERE slug IS NOT NORMALIZED;
UPDATE categories SET name = regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', ' ', 'g')
WHERE name ~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]';
UPDATE products SET name = regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]', ' ', 'g')
WHERE name ~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]';

-- Words with single dashes between. Of the characters that are neither letter, mark nor digit: those of ASCII, and the
-- general punctuation. PostgreSQL cannot tell the others, because its classes of characters depend on the collation.
ALTER TABLE categories ADD CONSTRAINT categories_slug_form CHECK (
    slug IS NORMALIZED
    AND slug COLLATE "C"
    !~ '[\u0001-\u002c\u002e-\u002f\u003a-\u0060\u007b-\u00a9\u2000-\u206f]|(^|-)(-|$)'
) NOT VALID;
-- No control characters, no line breaks, and none that reverse the text around them.
ALTER TABLE categories ADD CONSTRAINT categories_name_form CHECK (
    name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
ALTER TABLE products ADD CONSTRAINT products_name_form CHECK (
    name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]'
) NOT VALID;
