'use strict';

// Shows openapi.json: each address, what it takes, what it answers. The usual
// viewers are megabytes from elsewhere; this service asks nobody else.

function element(name, text = '', ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

function resolve(api, schema) {
  const name = schema.$ref?.split('/').pop();
  return name ? api.components.schemas[name] : schema;
}

function typeOf(api, schema) {
  if (schema.anyOf) {
    return schema.anyOf.map((one) => typeOf(api, one)).join(' or ');
  }
  if (schema.type === 'array') return `list of ${typeOf(api, schema.items)}`;
  return resolve(api, schema).type ?? 'anything';
}

// One row a field; those of objects within follow, named FIELD.NAME.
function rows(api, schema, prefix = '') {
  const { properties = {}, required = [] } = resolve(api, schema);
  return Object.entries(properties).flatMap(([name, field]) => {
    const inner = field.type === 'array' ? field.items : field;
    const path = prefix + name;
    const facts = [typeOf(api, field)];
    if (required.includes(name)) facts.push('required');
    if (field.default != null) facts.push(`default ${field.default}`);
    if (field.description) facts.push(field.description);
    const row = element('tr', '', element('td', path),
      element('td', facts.join('; ')));
    const dot = field.type === 'array' ? '[].' : '.';
    return [row, ...rows(api, inner, path + dot)];
  });
}

function table(title, lines) {
  return lines.length
    ? [element('h3', title), element('table', '', ...lines)] : [];
}

function section(api, path, method, about) {
  const json = (part) => part?.content?.['application/json']?.schema ?? {};
  const query = (about.parameters ?? []).map((one) => element('tr', '',
    element('td', one.name), element('td', [
      typeOf(api, one.schema), one.required ? 'required' : '',
      one.schema.default != null && one.schema.default !== ''
        ? `default ${one.schema.default}` : '',
    ].filter(Boolean).join('; '))));
  const answers = Object.entries(about.responses);
  const good = answers.find(([status]) => status < 300)?.[1];
  const bad = answers.filter(([status]) => status >= 300).map(
    ([status, one]) => element('tr', '', element('td', status),
      element('td', one.description)));
  return element('section', '',
    element('h2', `${method.toUpperCase()} ${path}`),
    element('p', about.description ?? ''),
    ...table('Parameters', query),
    ...table('Body', rows(api, json(about.requestBody))),
    ...table('Answer', rows(api, json(good))),
    ...table('Errors', bad));
}

async function main() {
  const about = document.getElementById('about');
  try {
    const api = await (await fetch('openapi.json')).json();
    about.textContent = api.info.description;
    document.getElementById('paths').append(
      ...Object.entries(api.paths).flatMap(([path, methods]) =>
        Object.entries(methods).map(([method, one]) =>
          section(api, path, method, one))));
  } catch (e) {
    about.textContent = `openapi.json could not be read: ${e.message}`;
  }
}

main();
